// Elementwise ops on fixed point: add (and its float form), requantize, rescale, clamp (and its float form), table.
#include <algorithm>
#include <limits>
#include <memory>

#include "ops.h"
#include "rules.h"

namespace bitshift {
namespace {

std::size_t count(const Graph &graph, const Node &node) { return static_cast<std::size_t>(graph.out(node).size); }

// ---- add, requantize -------------------------------------------------------------------------------------------------

void check_add(const Graph &graph, Node &node) {
  if (node.inputs.size() != 2) refuse(graph, node, "the number of inputs", std::to_string(node.inputs.size()), "2");
  const bool real = is_float(graph, node);
  check_parts(graph, node, {2, 2, {}, real ? std::vector<const char *>{} : std::vector<const char *>{"clamp"}, {}});
  check_kinds(graph, node);
  const Value &a = graph.in(node), &b = graph.in(node, 1);
  if (a.shape != b.shape) refuse(graph, node, "the shape of " + quoted(b.name), shape_text(b.shape), shape_text(a.shape) + ", that of " + quoted(a.name));
  check_shape(graph, node, a.shape);
  if (real) return;
  check_alignment(graph, node);
  read_clamp(graph, node);
}

void check_requantize(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {}, {"clamp"}, {}});
  check_fixed(graph, node, graph.in(node));
  check_fixed(graph, node, graph.out(node));
  read_clamp(graph, node);
  check_shape(graph, node, graph.in(node).shape);
  check_alignment(graph, node);
}

Bound bound_aligned(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  return is_float(graph, node) ? Bound{} : aligned_bound(graph, node, inputs);
}

PlanarStep compile_aligned(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t n = count(graph, node);
  const int a = node.inputs[0], b = node.inputs.size() == 2 ? node.inputs[1] : -1, out = node.output;
  if (is_float(graph, node)) return {[=](const Sample &f) { bsk_add_f32(f.at<float>(a), f.at<float>(b), f.at<float>(out), n); }};
  const Alignment grid = alignment(graph, node);
  const bsk_add p = {grid.up[0], b < 0 ? 0 : grid.up[1], grid.down, static_cast<std::int32_t>(node.attrs.lo), static_cast<std::int32_t>(node.attrs.hi)};
  const bsk_dtype type_a = graph.in(node).type.dtype(), type_b = b < 0 ? BSK_U8 : graph.in(node, 1).type.dtype();
  const bsk_dtype out_type = graph.out(node).type.dtype();
  return {[=](const Sample &f) { bsk_add_int(&p, f.at(a), type_a, b < 0 ? nullptr : f.at(b), type_b, f.at(out), out_type, n); }};
}

// ---- rescale ---------------------------------------------------------------------------------------------------------

std::int64_t channels_of(const Graph &graph, const Node &node) {
  const Shape &x = graph.in(node).shape;
  return x.empty() ? 1 : x[0];
}

void check_rescale(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {}, {"clamp"}, {Role::mult, Role::offset, Role::shift}});
  check_fixed(graph, node, graph.in(node));
  check_fixed(graph, node, graph.out(node));
  read_clamp(graph, node);
  check_shape(graph, node, graph.in(node).shape);
  check_vectors(graph, node, channels_of(graph, node), true);
}

Bound bound_rescale(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  return rule4_bound(graph, node, std::vector<Range>(static_cast<std::size_t>(channels_of(graph, node)), inputs[0]), {});
}

PlanarStep compile_rescale(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t channels = static_cast<std::size_t>(channels_of(graph, node)), each = count(graph, node) / channels;
  const auto q = std::make_shared<RequantVectors>(requant_vectors(graph, node, static_cast<std::int64_t>(channels)));
  const std::int32_t lo = static_cast<std::int32_t>(node.attrs.lo), hi = static_cast<std::int32_t>(node.attrs.hi);
  const bsk_dtype in = graph.in(node).type.dtype(), out_type = graph.out(node).type.dtype();
  const std::size_t in_step = each * bsk_dtype_size(in), out_step = each * bsk_dtype_size(out_type);
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) {
    for (std::size_t c = 0; c < channels; c++)
      bsk_rescale_int(q->mult[c], q->offset[c], q->shift[c], lo, hi, f.at<std::uint8_t>(x) + c * in_step, in,
                      f.at<std::uint8_t>(out) + c * out_step, out_type, each);
  }};
}

// ---- clamp -----------------------------------------------------------------------------------------------------------

void check_clamp(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"lo", "hi"}, {}, {}});
  check_kinds(graph, node);
  check_same_type(graph, node);
  check_shape(graph, node, graph.in(node).shape);
  const ValueType &type = graph.in(node).type;
  const bool open_lo = node.raw->find("lo")->is_null(), open_hi = node.raw->find("hi")->is_null();
  Attrs &a = node.attrs;
  bool ordered = true;
  if (type.real) {
    const double lo = open_lo ? 0 : number(graph, node, "lo"), hi = open_hi ? 0 : number(graph, node, "hi");
    a.real_lo = open_lo ? -std::numeric_limits<float>::infinity() : static_cast<float>(lo);
    a.real_hi = open_hi ? std::numeric_limits<float>::infinity() : static_cast<float>(hi);
    ordered = open_lo || open_hi || lo <= hi;
  } else {
    a.lo = open_lo ? type.lo() : integer(graph, node, "lo", type.lo(), type.hi());
    a.hi = open_hi ? type.hi() : integer(graph, node, "hi", type.lo(), type.hi());
    ordered = a.lo <= a.hi;
  }
  if (!ordered) refuse(graph, node, "lo, hi", node.raw->find("lo")->text() + ", " + node.raw->find("hi")->text(), "lo <= hi");
}

Bound bound_clamp(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  if (is_float(graph, node)) return {};
  Bound bound;
  // Both ends meet both limits: a range may lie wholly on one side of them.
  auto limit = [&](std::int64_t v) { return std::min(std::max(v, node.attrs.lo), node.attrs.hi); };
  bound.range = {limit(inputs[0].lo), limit(inputs[0].hi)};
  return bound;
}

PlanarStep compile_clamp(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t n = count(graph, node);
  const int x = node.inputs[0], out = node.output;
  if (is_float(graph, node)) {
    const float lo = node.attrs.real_lo, hi = node.attrs.real_hi;
    return {[=](const Sample &f) { bsk_clamp_f32(lo, hi, f.at<float>(x), f.at<float>(out), n); }};
  }
  const std::int32_t lo = static_cast<std::int32_t>(node.attrs.lo), hi = static_cast<std::int32_t>(node.attrs.hi);
  const bsk_dtype type = graph.out(node).type.dtype();
  return {[=](const Sample &f) { bsk_clamp_int(lo, hi, f.at(x), f.at(out), type, n); }};
}

// ---- table -----------------------------------------------------------------------------------------------------------

void check_table(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {}, {}, {Role::table}});
  const ValueType &out = check_fixed(graph, node, graph.out(node));
  const std::int64_t entries = std::int64_t{1} << check_fixed(graph, node, graph.in(node), 8).bits;
  check_shape(graph, node, graph.in(node).shape);
  const Constant *table = graph.constant(node, Role::table);
  if (!table) refuse(graph, node, "the constant 'table'", "missing", "a table");
  if (table->stored != out.dtype() || table->shape != Shape{entries})
    refuse(graph, node, "table", "of shape " + shape_text(table->shape), "shape " + shape_text({entries}) + " in the dtype of " + out.text());
  for (std::int64_t v : table->ints)
    if (v < out.lo() || v > out.hi()) refuse(graph, node, "an entry of the table", std::to_string(v), std::to_string(out.lo()) + " to " + std::to_string(out.hi()));
}

Bound bound_table(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  const std::vector<std::int64_t> &table = graph.constant(node, Role::table)->ints;
  const std::int64_t base = graph.in(node).type.lo();
  const auto reachable = std::minmax_element(table.begin() + (inputs[0].lo - base), table.begin() + (inputs[0].hi - base + 1));
  Bound bound;
  bound.range = {*reachable.first, *reachable.second};
  return bound;
}

PlanarStep compile_table(const Graph &graph, const Node &node, const Bound &) {
  const bsk_dtype in = graph.in(node).type.dtype(), out_type = graph.out(node).type.dtype();
  const std::size_t n = count(graph, node), item = bsk_dtype_size(out_type);
  const auto entries = std::make_shared<std::vector<std::uint8_t>>();
  for (std::int64_t v : graph.constant(node, Role::table)->ints)  // little-endian two's complement, the host's own layout
    for (std::size_t b = 0; b < item; b++) entries->push_back(static_cast<std::uint8_t>(static_cast<std::uint64_t>(v) >> (8 * b)));
  const std::int32_t lo = static_cast<std::int32_t>(graph.in(node).type.lo());
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) { bsk_table(f.at(x), in, lo, entries->data(), f.at(out), item, n); }};
}

}  // namespace

const OpSpec add_op = {"add", check_add, bound_aligned, one_each, compile_aligned};
const OpSpec requantize_op = {"requantize", check_requantize, bound_aligned, one_each, compile_aligned};
const OpSpec rescale_op = {"rescale", check_rescale, bound_rescale, one_each, compile_rescale};
const OpSpec clamp_op = {"clamp", check_clamp, bound_clamp, one_each, compile_clamp};
const OpSpec table_op = {"table", check_table, bound_table, one_each, compile_table};

}  // namespace bitshift
