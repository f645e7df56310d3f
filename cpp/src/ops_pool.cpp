// Windows without weights, and argmax.
#include <algorithm>

#include "ops.h"
#include "rules.h"

namespace bitshift {
namespace {

// The kernel and the geometry; gives the shape of the output.
Shape read_window(const Graph &graph, Node &node, bool dilated) {
  const Shape &x = graph.in(node).shape;
  node.attrs.kernel = integers(graph, node, "kernel", x.size() < 2 ? 1 : x.size() - 1, 1, kMaxLength);
  Shape shape = window_shape(graph, node, dilated);
  shape.insert(shape.begin(), x[0]);
  return shape;
}

Magnitude taps(const Node &node) {
  Magnitude product(1);
  for (std::int64_t k : node.attrs.kernel) product = product * Magnitude::of(k);
  return product;
}

Magnitude count_window(const Graph &graph, const Node &node) { return Magnitude::of(graph.out(node).size) * taps(node); }

// ---- max_pool --------------------------------------------------------------------------------------------------------

// Whether one of `count` windows meets no element of an axis of `size`. Each window begins at i*stride - before.
bool has_empty_window(std::int64_t size, std::int64_t kernel, std::int64_t count, std::int64_t stride, std::int64_t before,
                      std::int64_t dilation) {
  if ((count - 1) * stride - before >= size) return true;
  for (std::int64_t i = 0; i < count && i * stride < before; i++) {
    // The first element of the kernel at or behind 0; at most 65535 windows begin in the padding.
    const std::int64_t gap = before - i * stride, step = (gap + dilation - 1) / dilation;
    if (step >= kernel || step * dilation - gap >= size) return true;
  }
  return false;
}

void check_max_pool(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"kernel", "stride", "padding", "dilation"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  const Shape shape = read_window(graph, node, true);
  const Attrs &a = node.attrs;
  for (std::size_t i = 0; i < a.kernel.size(); i++)
    if (has_empty_window(graph.in(node).shape[i + 1], a.kernel[i], shape[i + 1], a.stride[i], a.padding[i].first, a.dilation[i]))
      refuse(graph, node, "a window on spatial axis " + std::to_string(i), "all padding", "windows with at least one element; use less padding");
  check_shape(graph, node, shape);
}

// A window over three axes, as two passes: over the last two axes of each depth, then over the depths, whose planes are lines.
struct VolumePool {
  bsk_pool planes, depths;
  std::size_t between;  // elements from the first pass to the second
};

VolumePool volume_of(const Graph &graph, const Node &node) {
  const Attrs &a = node.attrs;
  const Shape &x = graph.in(node).shape, &y = graph.out(node).shape;
  VolumePool v;
  v.planes = pool_geometry(graph, node);
  v.planes.channels = x[0] * x[1];
  const std::int64_t line = y[2] * y[3];
  v.depths = {x[0], x[1], line, y[1], line, a.kernel[0], 1, a.stride[0], 1, a.dilation[0], 1, a.padding[0].first, 0};
  v.between = static_cast<std::size_t>(x[0] * x[1] * line);
  return v;
}

PlanarStep compile_max_pool(const Graph &graph, const Node &node, const Bound &) {
  const bsk_pool p = pool_geometry(graph, node);
  const ValueType type = graph.out(node).type;
  const std::int32_t lowest = type.real ? 0 : static_cast<std::int32_t>(type.lo());
  const bsk_dtype dtype = type.dtype();
  const int x = node.inputs[0], out = node.output;
  if (is_volume(graph, node)) {
    const VolumePool v = volume_of(graph, node);
    return {[=](const Sample &f) {
              bsk_max_pool(&v.planes, f.at(x), f.scratch, dtype, lowest);
              bsk_max_pool(&v.depths, f.scratch, f.at(out), dtype, lowest);
            },
            v.between * bsk_dtype_size(dtype)};
  }
  return {[=](const Sample &f) { bsk_max_pool(&p, f.at(x), f.at(out), dtype, lowest); }};
}

// ---- avg_pool --------------------------------------------------------------------------------------------------------

void check_avg_pool(const Graph &graph, Node &node) {
  if (node.inputs.empty()) refuse(graph, node, "the number of inputs", "0", "1");
  Attrs &a = node.attrs;
  if (is_float(graph, node)) {
    check_parts(graph, node, {1, 1, {"kernel", "stride", "padding", "scale"}, {}, {}});
    check_kinds(graph, node);
    a.scale = static_cast<float>(number(graph, node, "scale"));
  } else {
    check_parts(graph, node, {1, 1, {"kernel", "stride", "padding", "mult", "offset", "shift"}, {"clamp"}, {}});
    check_kinds(graph, node);
    a.mult = integer(graph, node, "mult", 1, kMaxMult);
    a.offset = integer(graph, node, "offset", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
    a.shift = static_cast<int>(integer(graph, node, "shift", 0, kMaxShift));
    read_clamp(graph, node);
  }
  check_shape(graph, node, read_window(graph, node, false));
}

Bound bound_avg_pool(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  const Attrs &a = node.attrs;
  const std::int64_t lo = std::min<std::int64_t>(inputs[0].lo, 0), hi = std::max<std::int64_t>(inputs[0].hi, 0);
  Bound bound;
  bound.acc = std::max(Magnitude::of(lo), Magnitude::of(hi)) * taps(node);
  bound.total = bound.acc * Magnitude::of(a.mult) + Magnitude::of(a.offset);
  if (bound.refused()) return bound;
  // With all inputs 0 any number of taps passes: then the factor must not be computed.
  const std::int64_t factor = lo || hi ? static_cast<std::int64_t>(taps(node).value()) : 0;
  bound.raw = {(lo * factor * a.mult + a.offset) >> a.shift, (hi * factor * a.mult + a.offset) >> a.shift};
  bound.has_raw = true;
  bound.range = clipped(bound.raw, a.lo, a.hi);
  return bound;
}

PlanarStep compile_avg_pool(const Graph &graph, const Node &node, const Bound &) {
  const bsk_pool p = pool_geometry(graph, node);
  const int x = node.inputs[0], out = node.output;
  if (is_float(graph, node)) {
    const float scale = node.attrs.scale;
    if (is_volume(graph, node)) {
      const VolumePool v = volume_of(graph, node);
      return {[=](const Sample &f) {
                bsk_avg_pool_f32(&v.planes, 1.0f, f.at<float>(x), static_cast<float *>(f.scratch));
                bsk_avg_pool_f32(&v.depths, scale, static_cast<float *>(f.scratch), f.at<float>(out));
              },
              v.between * sizeof(float)};
    }
    return {[=](const Sample &f) { bsk_avg_pool_f32(&p, scale, f.at<float>(x), f.at<float>(out)); }};
  }
  const std::int32_t mult = static_cast<std::int32_t>(node.attrs.mult);
  const std::int32_t lo = static_cast<std::int32_t>(node.attrs.lo), hi = static_cast<std::int32_t>(node.attrs.hi);
  const std::int64_t offset = node.attrs.offset;
  const int shift = node.attrs.shift;
  const bsk_dtype in = graph.in(node).type.dtype(), out_type = graph.out(node).type.dtype();
  if (is_volume(graph, node)) {  // sums of planes first, which fit int32 as the whole sums do
    const VolumePool v = volume_of(graph, node);
    constexpr std::int32_t least = std::numeric_limits<std::int32_t>::min(), most = std::numeric_limits<std::int32_t>::max();
    return {[=](const Sample &f) {
              bsk_avg_pool_int(&v.planes, 1, 0, 0, least, most, f.at(x), in, f.scratch, BSK_I32);
              bsk_avg_pool_int(&v.depths, mult, offset, shift, lo, hi, f.scratch, BSK_I32, f.at(out), out_type);
            },
            v.between * sizeof(std::int32_t)};
  }
  return {[=](const Sample &f) { bsk_avg_pool_int(&p, mult, offset, shift, lo, hi, f.at(x), in, f.at(out), out_type); }};
}

// ---- argmax ----------------------------------------------------------------------------------------------------------

void check_argmax(const Graph &graph, Node &node) {
  check_parts(graph, node, {});
  Shape shape = graph.in(node).shape;
  if (shape.empty()) refuse(graph, node, "the input's shape", "[]", "at least one axis");
  ValueType index;
  index.bits = 32;
  if (graph.out(node).type != index) refuse(graph, node, "the output's type", graph.out(node).type.text(), "s32.0");
  shape.pop_back();
  check_shape(graph, node, shape);
}

Bound bound_argmax(const Graph &graph, const Node &node, const std::vector<Range> &) {
  Bound bound;
  bound.range = {0, graph.in(node).shape.back() - 1};
  return bound;
}

Magnitude count_argmax(const Graph &graph, const Node &node) { return Magnitude::of(graph.in(node).size); }

PlanarStep compile_argmax(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t n = static_cast<std::size_t>(graph.in(node).shape.back()), rows = static_cast<std::size_t>(graph.out(node).size);
  const bsk_dtype in = graph.in(node).type.dtype();
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) { bsk_argmax(f.at(x), in, f.at<std::int32_t>(out), rows, n); }};
}

}  // namespace

bsk_pool pool_geometry(const Graph &graph, const Node &node) {
  const Attrs &a = node.attrs;
  const Shape &x = graph.in(node).shape, &y = graph.out(node).shape;
  const bool flat = x.size() == 2;
  const std::size_t w = x.size() - 2, h = flat ? 0 : w - 1;
  return {x[0],
          flat ? 1 : x[h + 1],
          x.back(),
          flat ? 1 : y[h + 1],
          y.back(),
          flat ? 1 : a.kernel[h],
          a.kernel[w],
          flat ? 1 : a.stride[h],
          a.stride[w],
          flat ? 1 : a.dilation[h],
          a.dilation[w],
          flat ? 0 : a.padding[h].first,
          a.padding[w].first};
}

const OpSpec max_pool_op = {"max_pool", check_max_pool, same_bound, count_window, compile_max_pool};
const OpSpec avg_pool_op = {"avg_pool", check_avg_pool, bound_avg_pool, count_window, compile_avg_pool};
const OpSpec argmax_op = {"argmax", check_argmax, bound_argmax, count_argmax, compile_argmax};

}  // namespace bitshift
