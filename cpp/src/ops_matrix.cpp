// conv and linear: fixed point with rule 4, and float32; and what all ops with weights share (weighted.h).
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "ops.h"
#include "rules.h"
#include "weighted.h"

namespace bitshift {
// ---- checks ----------------------------------------------------------------------------------------------------------

void check_mode(const Graph &graph, Node &node, const std::vector<const char *> &with_format,
                const std::vector<const char *> &without_format) {
  if (node.inputs.empty()) refuse(graph, node, "the number of inputs", "0", "1 or 2");
  if (!is_float(graph, node)) {
    const bool residual = node.inputs.size() == 2;
    Parts parts{1, 2, with_format, {"clamp"}, {Role::codes, Role::offset, Role::mult, Role::shift}};
    if (residual) parts.consts.push_back(Role::res_shift);
    check_parts(graph, node, parts);
    check_kinds(graph, node);
    read_clamp(graph, node);
    return;
  }
  if (node.constant(Role::weight) >= 0)
    check_parts(graph, node, {1, 1, without_format, {}, {Role::weight, Role::bias}});
  else
    check_parts(graph, node, {1, 1, with_format, {}, {Role::codes, Role::scale, Role::bias}});
  check_kinds(graph, node);
}

const Constant &check_weights(const Graph &graph, Node &node, std::size_t rank, bool real) {
  const bool plain = node.constant(Role::weight) >= 0;
  const Constant *found = graph.constant(node, plain ? Role::weight : Role::codes);
  if (!found) refuse(graph, node, "the constant 'codes'", "missing", real ? "codes or weight" : "codes");
  if (found->shape.size() != rank || std::find(found->shape.begin(), found->shape.end(), 0) != found->shape.end())
    refuse(graph, node, found->format ? "codes" : "weight", "of shape " + shape_text(found->shape),
           std::to_string(rank) + " axes, none of them empty");
  if (plain) {
    if (!std::all_of(found->reals.begin(), found->reals.end(), [](float v) { return v - v == 0; }))
      refuse(graph, node, "weight", "not finite", "finite numbers");
    return *found;
  }
  const std::string name = word(graph, node, "format");
  node.attrs.format = find_format(name);
  if (!node.attrs.format) refuse(graph, node, "attribute 'format'", quoted(name), "a format that this engine knows; it may be older than the file");
  if (node.attrs.format != found->format) refuse(graph, node, "the format of the codes", found->format->name, name + ", the node's");
  if (!real && !node.attrs.format->levels)
    refuse(graph, node, "the format of an integer node", name, "formats with levels up to 2**15");
  return *found;
}

void check_result(const Graph &graph, const Node &node, const Shape &shape, std::int64_t channels) {
  check_shape(graph, node, shape);
  if (node.inputs.size() == 2 && graph.in(node, 1).shape != shape)
    refuse(graph, node, "the residual's shape", shape_text(graph.in(node, 1).shape), shape_text(shape));
  check_vectors(graph, node, channels, false);
}

const Constant &weights_of(const Graph &graph, const Node &node) {
  const Constant *codes = graph.constant(node, Role::codes);
  return codes ? *codes : *graph.constant(node, Role::weight);
}

// Zero belongs to the range: padding adds zeros, and a partial sum lacks most of its terms.
Bound bound_sums(const Graph &graph, const Node &node, const std::vector<std::vector<LevelSums>> &sums, const std::vector<Range> &inputs) {
  const std::int64_t lo = std::min<std::int64_t>(inputs[0].lo, 0), hi = std::max<std::int64_t>(inputs[0].hi, 0);
  const std::size_t channels = sums[0].size();
  std::vector<Range> acc(channels);
  Bound bound;
  for (std::size_t c = 0; c < channels; c++) {
    for (const std::vector<LevelSums> &part : sums) {
      const auto [above, below] = part[c];
      const Magnitude up = Magnitude::of(above), down = Magnitude::of(below), low = Magnitude::of(lo), high = Magnitude::of(hi);
      const Magnitude largest = std::max(up * low + down * high, up * high + down * low);
      if (bound.channel < 0 || bound.acc < largest) {
        bound.acc = largest;
        bound.channel = static_cast<std::int64_t>(c);
      }
      if (largest.exceeds_int32()) continue;
      acc[c].lo = std::min(acc[c].lo, above * lo + below * hi);
      acc[c].hi = std::max(acc[c].hi, above * hi + below * lo);
    }
  }
  if (bound.acc.exceeds_int32()) return bound;
  Bound whole = rule4_bound(graph, node, acc, inputs.size() == 2 ? inputs[1] : Range{});
  whole.acc = bound.acc;
  whole.channel = bound.channel;
  return whole;
}

Operands operands_of(const Graph &graph, const Node &node) {
  const bool has_residual = node.inputs.size() == 2;
  return {node.inputs[0], has_residual ? node.inputs[1] : -1, node.output, graph.in(node).type.dtype(),
          has_residual ? graph.in(node, 1).type.dtype() : BSK_U8, graph.out(node).type.dtype()};
}

namespace {

void check_conv(const Graph &graph, Node &node) {
  check_mode(graph, node, {"format", "stride", "padding", "dilation", "groups"}, {"stride", "padding", "dilation", "groups"});
  const Shape &w = check_weights(graph, node, check_spatial(graph, node) + 2, is_float(graph, node)).shape;
  node.attrs.groups = check_groups(graph, node, w);
  node.attrs.kernel.assign(w.begin() + 2, w.end());
  Shape shape = window_shape(graph, node, true);
  shape.insert(shape.begin(), w[0]);
  check_result(graph, node, shape, w[0]);
}

void check_linear(const Graph &graph, Node &node) {
  check_mode(graph, node, {"format"}, {});
  Shape shape = graph.in(node).shape;
  const Shape &w = check_weights(graph, node, 2, is_float(graph, node)).shape;
  if (shape.empty() || shape.back() != w[1])
    refuse(graph, node, "the input's shape", shape_text(shape), "(..., " + std::to_string(w[1]) + ") for weights of shape " + shape_text(w));
  shape.back() = w[0];
  check_result(graph, node, shape, w[0]);
}

// ---- bound and cost --------------------------------------------------------------------------------------------------

Bound bound_weighted(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  return bound_sums(graph, node, {weights_of(graph, node).sums}, inputs);
}

Magnitude count_weighted(const Graph &graph, const Node &node) {
  const Shape &w = weights_of(graph, node).shape;
  Magnitude products = Magnitude::of(graph.out(node).size);
  for (std::size_t i = 1; i < w.size(); i++) products = products * Magnitude::of(w[i]);
  return products * 2;
}

// ---- compiled form ---------------------------------------------------------------------------------------------------

// What the kernels read; shared by nothing else, alive as long as the step.
struct Prepared {
  bsk_conv geometry{};
  bsk_dot kind = BSK_DOT_I16;
  std::vector<std::int16_t> w16;
  std::vector<std::int32_t> w32;
  std::vector<float> reals;
  RequantVectors vectors;
  bsk_requant requant{};
  std::vector<float> scale, bias;

  const void *weights() const {
    return kind == BSK_DOT_I16 ? static_cast<const void *>(w16.data()) : kind == BSK_DOT_I32 ? static_cast<const void *>(w32.data()) : reals.data();
  }
};

// int16 products unless a type is too wide for them; 32768 itself does not fit int16.
bsk_dot dot_kind(const Graph &graph, const Node &node, bool depthwise) {
  if (is_float(graph, node)) return BSK_DOT_F32;
  const bool narrow = graph.in(node).type.dtype() != BSK_I32 && node.attrs.format->max_level <= 32767;
  return narrow && !depthwise ? BSK_DOT_I16 : BSK_DOT_I32;
}

// Rows of `taps` x `channels` weights in (tap, channel) order, each `stride` long and padded with zeros, from the file's
// (channel, tap) order. `row(o)` gives the weights of an output as the file has them.
template <class T, class Row>
std::vector<T> rows_of(std::size_t rows, std::size_t channels, std::size_t taps, std::size_t stride, Row row) {
  std::vector<T> out(rows * stride, T{});
  for (std::size_t o = 0; o < rows; o++) {
    const T *from = row(o);
    for (std::size_t c = 0; c < channels; c++)
      for (std::size_t t = 0; t < taps; t++) out[o * stride + t * channels + c] = from[c * taps + t];
  }
  return out;
}

// `planes`: how many of the kernel's first places count as channels of their own.
std::shared_ptr<Prepared> prepare(const Graph &graph, const Node &node, const Bound &bound, bool depthwise, std::int64_t planes = 1) {
  auto p = std::make_shared<Prepared>();
  const Constant &w = weights_of(graph, node);
  const std::size_t rows = static_cast<std::size_t>(w.shape[0]), channels = static_cast<std::size_t>(w.shape[1] * planes);
  std::size_t taps = 1;
  for (std::size_t i = 2; i < w.shape.size(); i++) taps *= static_cast<std::size_t>(w.shape[i]);
  taps /= static_cast<std::size_t>(planes);
  const std::size_t stride = depthwise ? taps : bsk_row_stride(channels * taps);
  const bitshift_format *format = node.attrs.format;
  p->kind = dot_kind(graph, node, depthwise);
  if (p->kind == BSK_DOT_I16)
    p->w16 = rows_of<std::int16_t>(rows, channels, taps, stride, level_rows<std::int16_t>(w.codes, format->levels));
  else if (p->kind == BSK_DOT_I32)
    p->w32 = rows_of<std::int32_t>(rows, channels, taps, stride, level_rows<std::int32_t>(w.codes, format->levels));
  else if (format)
    p->reals = rows_of<float>(rows, channels, taps, stride, level_rows<float>(w.codes, format->levels_f32));
  else
    p->reals = rows_of<float>(rows, channels, taps, stride, [&](std::size_t o) { return w.reals.data() + o * channels * taps; });
  if (p->kind == BSK_DOT_F32) {
    p->scale = float_vector(graph, node, Role::scale, w.shape[0]);
    p->bias = float_vector(graph, node, Role::bias, w.shape[0]);
  } else {
    p->vectors = requant_vectors(graph, node, w.shape[0]);
    const RequantVectors &v = p->vectors;
    p->requant = {v.mult.data(), v.offset.data(), v.shift.data(), v.res_shift.data(), static_cast<std::int32_t>(node.attrs.lo),
                  static_cast<std::int32_t>(node.attrs.hi), bound.fits32()};
  }
  return p;
}

// A 3-d convolution: for each depth of the output a 2-d one, over the depths of its window as channels.
struct Volume {
  std::int64_t channels, depth, kernel, stride, dilation, pad;  // of the input, along its first spatial axis
  std::int64_t out_depth;

  // The planes that output depth `at` reads: one a channel and place of the kernel; zeros where there is none.
  void gather(const std::uint8_t *x, std::size_t plane, std::int64_t at, std::uint8_t *to) const {
    for (std::int64_t c = 0; c < channels; c++)
      for (std::int64_t k = 0; k < kernel; k++, to += plane) {
        const std::int64_t d = at * stride - pad + k * dilation;
        if (d < 0 || d >= depth)
          std::memset(to, 0, plane);
        else
          std::memcpy(to, x + static_cast<std::size_t>(c * depth + d) * plane, plane);
      }
  }

  // Planes of one output depth to or from their places among all depths.
  void scatter(const std::uint8_t *from, std::int64_t count, std::size_t plane, std::int64_t at, std::uint8_t *out) const {
    for (std::int64_t c = 0; c < count; c++, from += plane) std::memcpy(out + static_cast<std::size_t>(c * out_depth + at) * plane, from, plane);
  }
  void collect(const std::uint8_t *from, std::int64_t count, std::size_t plane, std::int64_t at, std::uint8_t *to) const {
    for (std::int64_t c = 0; c < count; c++, to += plane) std::memcpy(to, from + static_cast<std::size_t>(c * out_depth + at) * plane, plane);
  }
};

PlanarStep compile_volume(const Graph &graph, const Node &node, const Bound &bound) {
  const Attrs &a = node.attrs;
  const Shape &x = graph.in(node).shape, &y = graph.out(node).shape;
  const Volume v = {x[0], x[1], a.kernel[0], a.stride[0], a.dilation[0], a.padding[0].first, y[1]};
  bsk_conv g = conv_geometry(graph, node);
  g.in_c *= v.kernel;
  const auto p = prepare(graph, node, bound, bsk_conv_is_depthwise(&g), v.kernel);
  p->geometry = g;
  const Operands o = operands_of(graph, node);
  const std::size_t in_plane = static_cast<std::size_t>(g.in_h * g.in_w) * bsk_dtype_size(o.in), out_hw = static_cast<std::size_t>(g.out_h * g.out_w);
  const std::size_t out_plane = out_hw * bsk_dtype_size(o.out_type), res_plane = o.residual < 0 ? 0 : out_hw * bsk_dtype_size(o.res);
  const auto aligned = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  const std::size_t gathered = aligned(in_plane * static_cast<std::size_t>(g.in_c)), made = aligned(out_plane * static_cast<std::size_t>(g.out_c));
  const std::size_t added = aligned(res_plane * static_cast<std::size_t>(g.out_c));
  PlanarStep step;
  step.scratch = gathered + made + added + bsk_conv_scratch(&g, p->kind);
  step.run = [=](const Sample &f) {
    std::uint8_t *const rows = static_cast<std::uint8_t *>(f.scratch), *const out = rows + gathered, *const res = out + made;
    void *const rest = res + added;
    for (std::int64_t d = 0; d < v.out_depth; d++) {
      v.gather(f.at<std::uint8_t>(o.x), in_plane, d, rows);
      if (p->kind == BSK_DOT_F32) {
        bsk_conv_f32(&p->geometry, reinterpret_cast<const float *>(rows), p->reals.data(), p->scale.data(), p->bias.data(),
                     reinterpret_cast<float *>(out), rest);
      } else {
        if (res_plane) v.collect(f.at<std::uint8_t>(o.residual), p->geometry.out_c, res_plane, d, res);
        bsk_conv_int(&p->geometry, p->kind, rows, o.in, p->weights(), &p->requant, res_plane ? res : nullptr, o.res, out, o.out_type, rest);
      }
      v.scatter(out, p->geometry.out_c, out_plane, d, f.at<std::uint8_t>(o.out));
    }
  };
  return step;
}

PlanarStep compile_conv(const Graph &graph, const Node &node, const Bound &bound) {
  if (is_volume(graph, node)) return compile_volume(graph, node, bound);
  const bsk_conv geometry = conv_geometry(graph, node);
  const auto p = prepare(graph, node, bound, bsk_conv_is_depthwise(&geometry));
  p->geometry = geometry;
  const Operands o = operands_of(graph, node);
  PlanarStep step;
  step.scratch = bsk_conv_scratch(&geometry, p->kind);
  if (p->kind == BSK_DOT_F32) {
    step.run = [p, o](const Sample &f) {
      bsk_conv_f32(&p->geometry, f.at<float>(o.x), p->reals.data(), p->scale.data(), p->bias.data(), f.at<float>(o.out), f.scratch);
    };
  } else {
    step.run = [p, o](const Sample &f) {
      bsk_conv_int(&p->geometry, p->kind, f.at(o.x), o.in, p->weights(), &p->requant, o.residual < 0 ? nullptr : f.at(o.residual), o.res,
                   f.at(o.out), o.out_type, f.scratch);
    };
  }
  return step;
}

PlanarStep compile_linear(const Graph &graph, const Node &node, const Bound &bound) {
  const auto p = prepare(graph, node, bound, false);
  const Operands o = operands_of(graph, node);
  const std::int64_t in_f = graph.in(node).shape.back(), out_f = graph.out(node).shape.back(), rows = graph.out(node).size / out_f;
  PlanarStep step;
  step.scratch = bsk_linear_scratch(rows, in_f, out_f, p->kind);
  if (p->kind == BSK_DOT_F32) {
    step.run = [=](const Sample &f) {
      bsk_linear_f32(rows, in_f, out_f, f.at<float>(o.x), p->reals.data(), p->scale.data(), p->bias.data(), f.at<float>(o.out), f.scratch);
    };
  } else {
    step.run = [=](const Sample &f) {
      bsk_linear_int(rows, in_f, out_f, p->kind, f.at(o.x), o.in, p->weights(), &p->requant, o.residual < 0 ? nullptr : f.at(o.residual),
                     o.res, f.at(o.out), o.out_type, f.scratch);
    };
  }
  return step;
}

}  // namespace

bsk_conv conv_geometry(const Graph &graph, const Node &node) {
  const Attrs &a = node.attrs;
  const Shape &x = graph.in(node).shape, &y = graph.out(node).shape;
  const bool flat = x.size() == 2;  // one spatial axis is a height of 1
  const std::size_t w = x.size() - 2, h = flat ? 0 : w - 1;
  bsk_conv g{};
  g.in_c = x[0];
  g.out_c = y[0];
  g.groups = a.groups;
  g.in_h = flat ? 1 : x[h + 1];
  g.in_w = x.back();
  g.out_h = flat ? 1 : y[h + 1];
  g.out_w = y.back();
  g.kernel_h = flat ? 1 : a.kernel[h];
  g.kernel_w = a.kernel[w];
  g.stride_h = flat ? 1 : a.stride[h];
  g.stride_w = a.stride[w];
  g.dilation_h = flat ? 1 : a.dilation[h];
  g.dilation_w = a.dilation[w];
  g.pad_top = flat ? 0 : a.padding[h].first;
  g.pad_left = a.padding[w].first;
  return g;
}

const OpSpec conv_op = {"conv", check_conv, bound_weighted, count_weighted, compile_conv};
const OpSpec linear_op = {"linear", check_linear, bound_weighted, count_weighted, compile_linear};

}  // namespace bitshift
