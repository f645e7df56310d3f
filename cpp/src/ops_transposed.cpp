// conv_transpose: fixed point with rule 4, and float32; and interleave, which puts its parts together (transposed.h).
#include <memory>
#include <numeric>

#include "../kernels/transposed.h"
#include "rules.h"
#include "weighted.h"

namespace bitshift {
namespace {

void check_conv_transpose(const Graph &graph, Node &node) {
  check_mode(graph, node, {"format", "stride", "padding", "output_padding", "dilation", "groups"},
             {"stride", "padding", "output_padding", "dilation", "groups"});
  const Shape &x = graph.in(node).shape;
  const std::size_t count = check_spatial(graph, node);
  const Shape &w = check_weights(graph, node, count + 2, is_float(graph, node)).shape;
  Attrs &a = node.attrs;
  a.groups = check_groups(graph, node, w);
  a.kernel.assign(w.begin() + 2, w.end());
  a.stride = integers(graph, node, "stride", count, 1, kMaxStep);
  a.dilation = integers(graph, node, "dilation", count, 1, kMaxStep);
  a.padding = padding_pairs(graph, node, count);
  a.output_padding = integers(graph, node, "output_padding", count, 0, kMaxStep);
  Shape shape = {w[0]};
  for (std::size_t i = 0; i < count; i++) {
    const std::string axis = " on spatial axis " + std::to_string(i);
    if (a.output_padding[i] >= std::max(a.stride[i], a.dilation[i]))
      refuse(graph, node, "output_padding" + axis, std::to_string(a.output_padding[i]),
             "less than stride " + std::to_string(a.stride[i]) + " or dilation " + std::to_string(a.dilation[i]));
    // At most 2^31 * 2^16 twice: far from the limits of 64 bits.
    const std::int64_t length = (x[i + 1] - 1) * a.stride[i] + (a.kernel[i] - 1) * a.dilation[i] + 1 - a.padding[i].first -
                                a.padding[i].second + a.output_padding[i];
    if (length < 1) refuse(graph, node, "the output's length" + axis, std::to_string(length), "at least 1; use less padding");
    shape.push_back(length);
  }
  check_result(graph, node, shape, w[0]);
}

// Taps meet the same outputs if their places times the dilation leave the same remainder by the stride, along every axis.
Bound bound_conv_transpose(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  const Constant &codes = weights_of(graph, node);
  const Attrs &a = node.attrs;
  std::vector<std::size_t> part = {0};  // by place in the kernel
  std::size_t parts = 1;
  for (std::size_t i = 0; i < a.kernel.size(); i++) {
    const std::int64_t period = std::min(a.stride[i] / std::gcd(a.stride[i], a.dilation[i]), a.kernel[i]);
    std::vector<std::size_t> more;
    for (std::size_t p : part)
      for (std::int64_t k = 0; k < a.kernel[i]; k++) more.push_back(p * static_cast<std::size_t>(period) + static_cast<std::size_t>(k % period));
    part = std::move(more);
    parts *= static_cast<std::size_t>(period);
  }
  if (parts == 1) return bound_sums(graph, node, {codes.sums}, inputs);
  const auto rows = static_cast<std::size_t>(codes.codes.rows), length = static_cast<std::size_t>(codes.codes.per_row);
  std::vector<std::vector<LevelSums>> sums(parts, std::vector<LevelSums>(rows));
  std::vector<std::uint8_t> row(length);
  for (std::size_t o = 0; o < rows; o++) {
    codes.codes.unpack(static_cast<std::int64_t>(o), 1, row.data());
    for (std::size_t i = 0; i < length; i++) {
      const std::int64_t level = a.format->levels[row[i]];
      LevelSums &sum = sums[part[i % part.size()]][o];
      (level > 0 ? sum.above : sum.below) += level;
    }
  }
  return bound_sums(graph, node, sums, inputs);
}

Magnitude count_conv_transpose(const Graph &graph, const Node &node) {
  Magnitude products(2);
  for (std::int64_t n : weights_of(graph, node).shape) products = products * Magnitude::of(n);
  for (std::size_t i = 1; i < graph.in(node).shape.size(); i++) products = products * Magnitude::of(graph.in(node).shape[i]);
  return products + Magnitude::of(graph.out(node).size);
}

struct Prepared {
  bsk_transposed geometry{};
  std::vector<std::int32_t> levels;
  std::vector<float> reals, scale, bias;
  RequantVectors vectors;
  bsk_requant requant{};
};

// The levels of all outputs, one after another, as the file has them.
template <class T, class Level>
std::vector<T> all_levels(const PackedCodes &codes, const Level *levels) {
  std::vector<T> out;
  auto row = level_rows<T>(codes, levels);
  for (std::size_t o = 0; o < static_cast<std::size_t>(codes.rows); o++) {
    const T *from = row(o);
    out.insert(out.end(), from, from + codes.per_row);
  }
  return out;
}

PlanarStep compile_conv_transpose(const Graph &graph, const Node &node, const Bound &bound) {
  const auto p = std::make_shared<Prepared>();
  const Attrs &a = node.attrs;
  const Shape &x = graph.in(node).shape, &y = graph.out(node).shape;
  bsk_transposed &g = p->geometry;
  g.in_c = x[0];
  g.out_c = y[0];
  g.groups = a.groups;
  const std::size_t missing = 3 - a.kernel.size();
  for (std::size_t i = 0; i < 3; i++) {
    const bool there = i >= missing;
    const std::size_t at = there ? i - missing : 0;
    g.in[i] = there ? x[at + 1] : 1;
    g.out[i] = there ? y[at + 1] : 1;
    g.kernel[i] = there ? a.kernel[at] : 1;
    g.stride[i] = there ? a.stride[at] : 1;
    g.dilation[i] = there ? a.dilation[at] : 1;
    g.before[i] = there ? a.padding[at].first : 0;
  }
  const Constant &w = weights_of(graph, node);
  const Operands o = operands_of(graph, node);
  PlanarStep step;
  if (is_float(graph, node)) {
    p->reals = w.format ? all_levels<float>(w.codes, w.format->levels_f32) : w.reals;
    p->scale = float_vector(graph, node, Role::scale, y[0]);
    p->bias = float_vector(graph, node, Role::bias, y[0]);
    step.run = [p, o](const Sample &f) {
      bsk_transposed_f32(&p->geometry, f.at<float>(o.x), p->reals.data(), p->scale.data(), p->bias.data(), f.at<float>(o.out));
    };
    return step;
  }
  p->levels = all_levels<std::int32_t>(w.codes, w.format->levels);
  p->vectors = requant_vectors(graph, node, y[0]);
  const RequantVectors &v = p->vectors;
  p->requant = {v.mult.data(), v.offset.data(), v.shift.data(), v.res_shift.data(), static_cast<std::int32_t>(a.lo),
                static_cast<std::int32_t>(a.hi), bound.fits32()};
  step.scratch = bsk_transposed_scratch(&g);
  step.run = [p, o](const Sample &f) {
    bsk_transposed_int(&p->geometry, f.at(o.x), o.in, p->levels.data(), &p->requant, o.residual < 0 ? nullptr : f.at(o.residual), o.res,
                       f.at(o.out), o.out_type, f.scratch);
  };
  return step;
}

// ---- interleave: input i goes to the places start[i] + n * stride; made by split_transposed alone --------------------

void check_interleave(const Graph &, Node &) {}

Bound bound_interleave(const Graph &, const Node &, const std::vector<Range> &inputs) {
  Bound bound;
  bound.range = inputs[0];
  for (const Range &range : inputs) bound.range = {std::min(bound.range.lo, range.lo), std::max(bound.range.hi, range.hi)};
  return bound;
}

PlanarStep compile_interleave(const Graph &graph, const Node &node, const Bound &) {
  struct Part {
    int value;
    Shape shape, src, dst;
    std::size_t to;
  };
  const Shape &y = graph.out(node).shape, &stride = node.attrs.stride, &start = node.attrs.start;
  const std::size_t item = bsk_dtype_size(graph.out(node).type.dtype());
  std::vector<Part> parts;
  for (std::size_t n = 0; n < node.inputs.size(); n++) {
    Part part{node.inputs[n], graph.in(node, n).shape, {}, {}, 0};
    part.src.assign(y.size(), 1);
    part.dst.assign(y.size(), 1);
    for (std::size_t i = y.size(); i-- > 1;) {
      part.src[i - 1] = part.src[i] * part.shape[i];
      part.dst[i - 1] = part.dst[i] * y[i];
    }
    std::int64_t to = 0;
    for (std::size_t i = 1; i < y.size(); i++) {
      to += start[n * stride.size() + i - 1] * part.dst[i];
      part.dst[i] = part.shape[i] == 1 ? 0 : part.dst[i] * stride[i - 1];
    }
    part.to = static_cast<std::size_t>(to) * item;
    parts.push_back(std::move(part));
  }
  const int out = node.output;
  return {[=](const Sample &f) {
    for (const Part &part : parts)
      bsk_copy_strided(static_cast<int>(part.shape.size()), part.shape.data(), f.at(part.value), part.src.data(),
                       f.at<std::uint8_t>(out) + part.to, part.dst.data(), item);
  }};
}

}  // namespace

const OpSpec conv_transpose_op = {"conv_transpose", check_conv_transpose, bound_conv_transpose, count_conv_transpose, compile_conv_transpose, 2};
const OpSpec interleave_op = {"interleave", check_interleave, bound_interleave, one_each, compile_interleave};

}  // namespace bitshift
