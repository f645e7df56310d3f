// Ops that move elements: concat, pad, slice, reshape, transpose, upsample.
#include <algorithm>
#include <cstring>
#include <memory>

#include "ops.h"
#include "rules.h"

namespace bitshift {
namespace {

// Row-major strides in elements.
Shape strides_of(const Shape &shape) {
  Shape out(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) out[i - 1] = out[i] * shape[i];
  return out;
}

// Product of shape[first..last).
std::int64_t product(const Shape &shape, std::size_t first, std::size_t last) {
  std::int64_t n = 1;
  for (std::size_t i = first; i < last; i++) n *= shape[i];
  return n;
}

// A copy between two strided views that begin `from` and `to` elements into their values.
std::function<void(const Sample &)> strided_copy(const Node &node, std::size_t item, Shape shape, std::int64_t from, Shape src, std::int64_t to,
                                                Shape dst) {
  const int x = node.inputs[0], out = node.output;
  return [=](const Sample &f) {
    bsk_copy_strided(static_cast<int>(shape.size()), shape.data(), f.at<std::uint8_t>(x) + static_cast<std::size_t>(from) * item, src.data(),
                     f.at<std::uint8_t>(out) + static_cast<std::size_t>(to) * item, dst.data(), item);
  };
}

std::size_t item_of(const Graph &graph, const Node &node) { return bsk_dtype_size(graph.out(node).type.dtype()); }

// ---- concat ----------------------------------------------------------------------------------------------------------

void check_concat(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 10000, {"axis"}, {}, {}});
  check_kinds(graph, node);
  Shape joined = graph.in(node).shape;
  const std::int64_t axis = node.attrs.axis = integer(graph, node, "axis", 0, static_cast<std::int64_t>(joined.size()) - 1);
  const std::size_t a = static_cast<std::size_t>(axis);
  for (std::size_t i = 1; i < node.inputs.size(); i++) {
    Shape shape = graph.in(node, i).shape;
    const std::string found = shape_text(shape);
    const std::int64_t length = shape.size() == joined.size() ? shape[a] : -1;
    if (length >= 0) shape[a] = joined[a];
    if (shape != joined)
      refuse(graph, node, "the shape of " + quoted(graph.in(node, i).name), found, shape_text(graph.in(node).shape) + " except along axis " + std::to_string(axis));
    joined[a] += length;
  }
  check_shape(graph, node, joined);
  if (is_float(graph, node)) return;
  check_alignment(graph, node);
  read_clamp(graph, node);
}

Bound bound_concat(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  Bound bound;
  for (std::size_t i = 0; i < inputs.size(); i++) {
    Node single;
    single.inputs = {node.inputs[i]};
    single.output = node.output;
    single.attrs.lo = node.attrs.lo;
    single.attrs.hi = node.attrs.hi;
    const Bound one = aligned_bound(graph, single, {inputs[i]});
    bound.total = std::max(bound.total, one.total);
    if (one.refused()) return bound;
    bound.raw = i ? Range{std::min(bound.raw.lo, one.raw.lo), std::max(bound.raw.hi, one.raw.hi)} : one.raw;
    bound.range = i ? Range{std::min(bound.range.lo, one.range.lo), std::max(bound.range.hi, one.range.hi)} : one.range;
  }
  bound.has_raw = true;
  return bound;
}

PlanarStep compile_concat(const Graph &graph, const Node &node, const Bound &) {
  struct Part {
    int value;
    bool plain;  // same type: bytes move as they are
    bsk_add align;
    bsk_dtype type;
    std::size_t inner, at;  // elements of one outer step, and where they begin in the output's
  };
  const Shape &shape = graph.out(node).shape;
  const std::size_t axis = static_cast<std::size_t>(node.attrs.axis), item = item_of(graph, node);
  const std::size_t outer = static_cast<std::size_t>(product(shape, 0, axis)), whole = static_cast<std::size_t>(product(shape, axis, shape.size()));
  std::vector<Part> parts;
  std::size_t at = 0;
  for (std::size_t i = 0; i < node.inputs.size(); i++) {
    const Value &x = graph.in(node, i);
    const std::size_t inner = static_cast<std::size_t>(x.size) / outer;
    const bool plain = x.type == graph.out(node).type;
    parts.push_back({node.inputs[i], plain, plain ? bsk_add{} : concat_alignment(graph, node, i), x.type.dtype(), inner, at});
    at += inner;
  }
  const bsk_dtype out_type = graph.out(node).type.dtype();
  const int out = node.output;
  return {[=](const Sample &f) {
    for (const Part &part : parts) {
      const std::size_t in_item = bsk_dtype_size(part.type);
      for (std::size_t o = 0; o < outer; o++) {
        const std::uint8_t *src = f.at<std::uint8_t>(part.value) + o * part.inner * in_item;
        std::uint8_t *dst = f.at<std::uint8_t>(out) + (o * whole + part.at) * item;
        if (part.plain)
          std::memcpy(dst, src, part.inner * item);
        else
          bsk_add_int(&part.align, src, part.type, nullptr, BSK_U8, dst, out_type, part.inner);
      }
    }
  }};
}

// ---- pad, slice, reshape, transpose ----------------------------------------------------------------------------------

void check_pad(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"padding", "value"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  const Value &x = graph.in(node);
  node.attrs.padding = padding_pairs(graph, node, x.shape.size());
  if (x.type.real)
    node.attrs.real_value = static_cast<float>(number(graph, node, "value"));
  else
    node.attrs.value = integer(graph, node, "value", x.type.lo(), x.type.hi());
  Shape shape = x.shape;
  for (std::size_t i = 0; i < shape.size(); i++) shape[i] += node.attrs.padding[i].first + node.attrs.padding[i].second;
  check_shape(graph, node, shape);
}

Bound bound_pad(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  Bound bound;
  bound.range = {std::min(inputs[0].lo, node.attrs.value), std::max(inputs[0].hi, node.attrs.value)};
  return bound;
}

PlanarStep compile_pad(const Graph &graph, const Node &node, const Bound &) {
  const Shape &in = graph.in(node).shape, dst = strides_of(graph.out(node).shape);
  std::int64_t to = 0;
  for (std::size_t i = 0; i < in.size(); i++) to += node.attrs.padding[i].first * dst[i];
  const std::size_t item = item_of(graph, node), n = static_cast<std::size_t>(graph.out(node).size);
  std::uint8_t value[4] = {0, 0, 0, 0};
  if (graph.out(node).type.real)
    std::memcpy(value, &node.attrs.real_value, sizeof(float));
  else
    for (std::size_t b = 0; b < 4; b++) value[b] = static_cast<std::uint8_t>(static_cast<std::uint64_t>(node.attrs.value) >> (8 * b));
  const auto copy = strided_copy(node, item, in, 0, strides_of(in), to, dst);
  const int out = node.output;
  std::uint32_t packed;
  std::memcpy(&packed, value, sizeof packed);
  return {[=](const Sample &f) {
    bsk_fill(f.at(out), &packed, item, n);
    copy(f);
  }};
}

void check_slice(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"start", "stop", "step"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  const Shape &x = graph.in(node).shape;
  node.attrs.start = integers(graph, node, "start", x.size(), 0, kMaxLength);
  const Shape stop = integers(graph, node, "stop", x.size(), 0, kMaxLength);
  node.attrs.step = integers(graph, node, "step", x.size(), 1, kMaxLength);
  Shape shape;
  for (std::size_t i = 0; i < x.size(); i++) {
    const std::int64_t start = node.attrs.start[i], step = node.attrs.step[i];
    if (start >= stop[i] || stop[i] > x[i])
      refuse(graph, node, "start:stop of axis " + std::to_string(i), std::to_string(start) + ":" + std::to_string(stop[i]),
             "0 <= start < stop <= " + std::to_string(x[i]));
    shape.push_back((stop[i] - start + step - 1) / step);
  }
  check_shape(graph, node, shape);
}

PlanarStep compile_slice(const Graph &graph, const Node &node, const Bound &) {
  const Shape &shape = graph.out(node).shape;
  Shape src = strides_of(graph.in(node).shape);
  std::int64_t from = 0;
  for (std::size_t i = 0; i < src.size(); i++) {
    from += node.attrs.start[i] * src[i];
    // An axis of one element is never stepped along; its stride could be far beyond the value.
    src[i] = shape[i] == 1 ? 0 : src[i] * node.attrs.step[i];
  }
  return {strided_copy(node, item_of(graph, node), shape, from, src, 0, strides_of(shape))};
}

void check_reshape(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"shape"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  const JsonArray *found = node.raw->find("shape")->array();
  Shape shape;
  if (found)
    for (const Json &item : *found)
      if (item.integer() && *item.integer() > 0) shape.push_back(*item.integer());
  if (!found || shape.size() != found->size()) refuse(graph, node, "attribute 'shape'", node.raw->find("shape")->text(), "positive integers");
  // The output's declared shape has been checked: equal shapes and sizes are all that is left.
  check_shape(graph, node, shape);
  if (graph.out(node).size != graph.in(node).size)
    refuse(graph, node, "attribute 'shape'", shape_text(shape), "shapes of " + std::to_string(graph.in(node).size) + " elements");
}

Magnitude count_nothing(const Graph &, const Node &) { return {}; }

// The plan gives input and output one place.
PlanarStep compile_reshape(const Graph &, const Node &, const Bound &) { return {}; }

void check_transpose(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"perm"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  const Shape &x = graph.in(node).shape;
  const std::int64_t last = std::max<std::int64_t>(static_cast<std::int64_t>(x.size()) - 1, 0);
  node.attrs.perm = integers(graph, node, "perm", x.size(), 0, last);
  Shape sorted = node.attrs.perm, shape;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    refuse(graph, node, "attribute 'perm'", shape_text(node.attrs.perm), "a permutation of 0 to " + std::to_string(last));
  for (std::int64_t axis : node.attrs.perm) shape.push_back(x[static_cast<std::size_t>(axis)]);
  check_shape(graph, node, shape);
}

PlanarStep compile_transpose(const Graph &graph, const Node &node, const Bound &) {
  const Shape in = strides_of(graph.in(node).shape), &shape = graph.out(node).shape;
  Shape src;
  for (std::int64_t axis : node.attrs.perm) src.push_back(in[static_cast<std::size_t>(axis)]);
  return {strided_copy(node, item_of(graph, node), shape, 0, src, 0, strides_of(shape))};
}

// ---- upsample --------------------------------------------------------------------------------------------------------

void check_upsample(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"factor"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  Shape shape = graph.in(node).shape;
  node.attrs.factor = integers(graph, node, "factor", check_spatial(graph, node), 1, kMaxStep);
  for (std::size_t i = 1; i < shape.size(); i++) shape[i] *= node.attrs.factor[i - 1];
  check_shape(graph, node, shape);
}

// Each spatial axis becomes two, of which the second stands still in the input; the channels join the first of them.
PlanarStep compile_upsample(const Graph &graph, const Node &node, const Bound &) {
  const Shape &x = graph.in(node).shape, &factor = node.attrs.factor, in = strides_of(x), out = strides_of(graph.out(node).shape);
  Shape shape, src, dst;
  for (std::size_t i = 1; i < x.size(); i++) {
    shape.insert(shape.end(), {i == 1 ? x[0] * x[1] : x[i], factor[i - 1]});
    src.insert(src.end(), {in[i], 0});
    dst.insert(dst.end(), {out[i] * factor[i - 1], out[i]});
  }
  return {strided_copy(node, item_of(graph, node), shape, 0, src, 0, dst)};
}

}  // namespace

bsk_add concat_alignment(const Graph &graph, const Node &node, std::size_t i) {
  const int in = graph.in(node, i).type.frac, out = graph.out(node).type.frac, finest = std::max(in, out);
  return {finest - in, 0, finest - out, static_cast<std::int32_t>(node.attrs.lo), static_cast<std::int32_t>(node.attrs.hi)};
}

const OpSpec concat_op = {"concat", check_concat, bound_concat, one_each, compile_concat};
const OpSpec pad_op = {"pad", check_pad, bound_pad, one_each, compile_pad};
const OpSpec slice_op = {"slice", check_slice, same_bound, one_each, compile_slice};
const OpSpec reshape_op = {"reshape", check_reshape, same_bound, count_nothing, compile_reshape};
const OpSpec transpose_op = {"transpose", check_transpose, same_bound, one_each, compile_transpose};
const OpSpec upsample_op = {"upsample", check_upsample, same_bound, one_each, compile_upsample, 2};

}  // namespace bitshift
