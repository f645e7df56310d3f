// Pools, sums, tables, concatenation and quantisation on maps.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "builder.h"
#include "rules.h"

namespace bitshift {
namespace {

using Table = std::array<std::uint8_t, 256>;

bool all_inputs(const Builder &b, const Node &node, bool (*fits)(const Value &)) {
  return std::all_of(node.inputs.begin(), node.inputs.end(), [&](int input) { return fits(b.value(input)); });
}

bool bytes_to_bytes(const Builder &b, const Node &node) { return all_inputs(b, node, fits_byte_map) && fits_byte_map(b.graph.out(node)); }

// Stored byte to stored byte. `compute` gives the integers that the op makes of `count` consecutive integers at x, both in
// the values' dtypes; it sees those alone that the input can hold, because the op's bound covers no others.
template <class Compute>
Table table_of(const Builder &b, int from, int to, Compute compute) {
  const simd::Map in = bare_map(b.value(from)), out = bare_map(b.value(to));
  const Range range = b.range(from);
  Table x{}, y{}, table{};
  const std::size_t count = static_cast<std::size_t>(range.hi - range.lo + 1);
  for (std::size_t i = 0; i < count; i++) x[i] = static_cast<std::uint8_t>(range.lo + static_cast<std::int64_t>(i));
  compute(x.data(), y.data(), count);
  for (std::size_t i = 0; i < count; i++)
    table[static_cast<std::uint8_t>(x[i] + in.zero)] = static_cast<std::uint8_t>(y[i] + out.zero);
  return table;
}

bsk_add sum_of(const Graph &graph, const Node &node) {
  const Alignment grid = alignment(graph, node);
  return {grid.up[0], grid.up.size() == 2 ? grid.up[1] : 0, grid.down, static_cast<std::int32_t>(node.attrs.lo), static_cast<std::int32_t>(node.attrs.hi)};
}

// The table of an op on bytes that treats all pixels and channels alike.
Table node_table(const Builder &b, const Node &node) {
  const bsk_dtype in = b.graph.in(node).type.dtype(), out = b.graph.out(node).type.dtype();
  const Attrs &a = node.attrs;
  const auto lo = static_cast<std::int32_t>(a.lo), hi = static_cast<std::int32_t>(a.hi);
  return table_of(b, node.inputs[0], node.output, [&](const std::uint8_t *x, std::uint8_t *y, std::size_t n) {
    if (node.op == &clamp_op) {
      bsk_clamp_int(lo, hi, x, y, in, n);
    } else if (node.op == &rescale_op) {
      const RequantVectors q = requant_vectors(b.graph, node, 1);
      bsk_rescale_int(q.mult[0], q.offset[0], q.shift[0], lo, hi, x, in, y, out, n);
    } else if (node.op == &table_op) {
      Table entries{};
      const std::vector<std::int64_t> &ints = b.graph.constant(node, Role::table)->ints;
      std::transform(ints.begin(), ints.end(), entries.begin(), [](std::int64_t v) { return static_cast<std::uint8_t>(v); });
      bsk_table(x, in, static_cast<std::int32_t>(b.graph.in(node).type.lo()), entries.data(), y, 1, n);
    } else {
      const bsk_add p = sum_of(b.graph, node);
      bsk_add_int(&p, x, in, nullptr, BSK_U8, y, out, n);
    }
  });
}

}  // namespace

// ---- pools -----------------------------------------------------------------------------------------------------------

bool can_max_pool(const Builder &b, const Node &node) { return bytes_to_bytes(b, node); }

bool add_max_pool(Builder &b, const Node &node) {
  const bsk_pool p = pool_geometry(b.graph, node);
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.map(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map from = b.map_of(node.inputs[0]), to = b.map_of(node.output);
  Step step = b.describe(node, {in}, out);
  step.kernel = "max-pool";
  b.add_pixels(std::move(step), in, -1, node.output, [=](const simd::Task &task) { kernels->max_pool(p, from, to, task); });
  return true;
}

bool can_avg_pool(const Builder &b, const Node &node) { return bytes_to_bytes(b, node); }

bool add_avg_pool(Builder &b, const Node &node) {
  const bsk_pool p = pool_geometry(b.graph, node);
  const Attrs &a = node.attrs;
  const auto mult = static_cast<std::int32_t>(a.mult), lo = static_cast<std::int32_t>(a.lo), hi = static_cast<std::int32_t>(a.hi);
  const std::int64_t offset = a.offset;
  const int shift = a.shift;
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.map(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map from = b.map_of(node.inputs[0]), to = b.map_of(node.output);
  Step step = b.describe(node, {in}, out);
  step.kernel = "avg-pool";
  b.add_pixels(std::move(step), in, -1, node.output, [=](const simd::Task &task) { kernels->avg_pool(p, mult, offset, shift, lo, hi, from, to, task); });
  return true;
}

// ---- add, requantize -------------------------------------------------------------------------------------------------

bool can_sum(const Builder &b, const Node &node) { return all_inputs(b, node, fits_map) && fits_map(b.graph.out(node)); }

bool add_sum(Builder &b, const Node &node) {
  if (node.inputs.size() == 1 && bytes_to_bytes(b, node)) return add_table(b, node);
  const bsk_add p = sum_of(b.graph, node);
  const simd::PixelKernels *kernels = b.pixels();
  const bool two = node.inputs.size() == 2;
  const int x = b.map(node.inputs[0]), y = two ? b.map(node.inputs[1]) : -1, out = b.make_map(node.output);
  const simd::Map first = b.map_of(node.inputs[0]), second = b.map_of(node.inputs[two]), to = b.map_of(node.output);
  Step step = b.describe(node, two ? std::vector<int>{x, y} : std::vector<int>{x}, out);
  step.kernel = "add";
  b.add_pixels(std::move(step), x, y, node.output, [=](const simd::Task &task) { kernels->add(p, first, second, to, task); });
  return true;
}

// ---- clamp, requantize, rescale and table of bytes -------------------------------------------------------------------

bool can_table(const Builder &b, const Node &node) {
  if (!bytes_to_bytes(b, node)) return false;
  // One factor for all channels.
  for (Role role : {Role::mult, Role::offset, Role::shift}) {
    const Constant *found = b.graph.constant(node, role);
    if (found && found->ints.size() != 1) return false;
  }
  return true;
}

bool add_table(Builder &b, const Node &node) {
  const auto table = std::make_shared<Table>(node_table(b, node));
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.map(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map from = b.map_of(node.inputs[0]), to = b.map_of(node.output);
  Step step = b.describe(node, {in}, out);
  step.kernel = "table";
  b.add_pixels(std::move(step), in, -1, node.output, [=](const simd::Task &task) { kernels->table(table->data(), from, to, task); });
  return true;
}

// ---- concat ----------------------------------------------------------------------------------------------------------

bool can_concat(const Builder &b, const Node &node) { return node.attrs.axis == 0 && bytes_to_bytes(b, node); }

bool add_concat(Builder &b, const Node &node) {
  struct Part {
    int area;
    simd::Map map;
    std::int64_t first;
    bool plain;  // the bytes stay as they are
    Table table;
  };
  const auto parts = std::make_shared<std::vector<Part>>();
  const simd::Map to = b.map_of(node.output);
  std::vector<int> reads;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < node.inputs.size(); i++) {
    const int input = node.inputs[i];
    Part part{b.map(input), b.map_of(input), first, b.value(input).type == b.graph.out(node).type, {}};
    if (!part.plain) {
      const bsk_add p = concat_alignment(b.graph, node, i);
      const bsk_dtype in = b.value(input).type.dtype(), out = b.graph.out(node).type.dtype();
      part.table = table_of(b, input, node.output, [&](const std::uint8_t *x, std::uint8_t *y, std::size_t n) {
        bsk_add_int(&p, x, in, nullptr, BSK_U8, y, out, n);
      });
    }
    first += part.map.channels;
    reads.push_back(part.area);
    parts->push_back(part);
  }
  const simd::PixelKernels *kernels = b.pixels();
  const int out = b.make_map(node.output);
  Step step = b.describe(node, std::move(reads), out);
  step.kernel = "concat";
  const bool border = to.border_h || to.border_w;
  step.run = [=](const Frame &f, int) {
    for (const Part &part : *parts)
      kernels->channels(part.plain ? nullptr : part.table.data(), part.map, part.first, to, f.task(part.area, -1, out));
    if (border && f.needs_border(out)) kernels->border(to, f.task(out, -1, out));
  };
  b.add(std::move(step));
  return true;
}

// ---- quantize --------------------------------------------------------------------------------------------------------

bool can_quantize(const Builder &b, const Node &node) { return fits_byte_map(b.graph.out(node)); }

bool add_quantize(Builder &b, const Node &node) {
  const ValueType type = b.graph.out(node).type;
  const double factor = std::ldexp(1.0, type.frac), half = node.attrs.half_up ? 0.5 : 0.0;
  const auto lo = static_cast<std::int32_t>(type.lo()), hi = static_cast<std::int32_t>(type.hi());
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.planar(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map to = b.map_of(node.output);
  Step step = b.describe(node, {in}, out);
  step.kernel = "quantize";
  b.add_pixels(std::move(step), in, -1, node.output, [=](const simd::Task &task) { kernels->quantize(factor, half, lo, hi, to, task); });
  return true;
}

}  // namespace bitshift
