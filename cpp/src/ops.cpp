// The registry of ops, and what several of them share.
#include "ops.h"

#include <algorithm>

#include "rules.h"

namespace bitshift {

const OpSpec *find_op(const std::string &name) {
  // interleave_op is missing: no file names it.
  static const OpSpec *const all[] = {&conv_op,     &linear_op,   &add_op,    &requantize_op, &rescale_op,   &clamp_op, &table_op,
                                      &affine_op,   &unary_op,    &quantize_op, &dequantize_op, &max_pool_op, &avg_pool_op, &argmax_op,
                                      &concat_op,   &pad_op,      &slice_op,  &reshape_op,    &transpose_op, &upsample_op,
                                      &conv_transpose_op, &embedding_op};
  for (const OpSpec *op : all)
    if (name == op->name) return op;
  return nullptr;
}

Bound no_bound(const Graph &, const Node &, const std::vector<Range> &) { return {}; }

Bound same_bound(const Graph &, const Node &, const std::vector<Range> &inputs) {
  Bound bound;
  bound.range = inputs[0];
  return bound;
}

Magnitude one_each(const Graph &graph, const Node &node) { return Magnitude::of(graph.out(node).size); }

namespace {

// The constant of `role`, one entry a channel: as it is, its only element repeated, or the default.
template <class T>
std::vector<T> spread(const std::vector<std::int64_t> *found, std::int64_t channels, T fallback) {
  std::vector<T> out(static_cast<std::size_t>(channels), fallback);
  if (!found) return out;
  for (std::size_t i = 0; i < out.size(); i++) out[i] = static_cast<T>((*found)[found->size() == 1 ? 0 : i]);
  return out;
}

const std::vector<std::int64_t> *ints(const Graph &graph, const Node &node, Role role) {
  const Constant *found = graph.constant(node, role);
  return found ? &found->ints : nullptr;
}

}  // namespace

RequantVectors requant_vectors(const Graph &graph, const Node &node, std::int64_t channels) {
  return {spread<std::int32_t>(ints(graph, node, Role::mult), channels, 1), spread<std::int64_t>(ints(graph, node, Role::offset), channels, 0),
          spread<std::uint8_t>(ints(graph, node, Role::shift), channels, 0),
          spread<std::uint8_t>(ints(graph, node, Role::res_shift), channels, 0)};
}

std::vector<float> float_vector(const Graph &graph, const Node &node, Role role, std::int64_t channels) {
  const Constant *found = graph.constant(node, role);
  std::vector<float> out(static_cast<std::size_t>(channels), role == Role::scale ? 1.0f : 0.0f);
  if (!found) return out;
  for (std::size_t i = 0; i < out.size(); i++) out[i] = found->reals[found->reals.size() == 1 ? 0 : i];
  return out;
}

Bound rule4_bound(const Graph &graph, const Node &node, const std::vector<Range> &acc, Range residual) {
  const RequantVectors q = requant_vectors(graph, node, static_cast<std::int64_t>(acc.size()));
  const Magnitude res = std::max(Magnitude::of(residual.lo), Magnitude::of(residual.hi));
  Bound bound;
  for (std::size_t c = 0; c < acc.size(); c++) {
    const Magnitude size = std::max(Magnitude::of(acc[c].lo), Magnitude::of(acc[c].hi));
    bound.total = std::max(bound.total, size * Magnitude::of(q.mult[c]) + Magnitude::of(q.offset[c]) + res.shifted(q.res_shift[c]));
  }
  if (bound.total.exceeds_int64()) return bound;
  // Every partial result of a numerator is at most `total`, so that 64 bits hold it.
  for (std::size_t c = 0; c < acc.size(); c++) {
    auto value = [&](std::int64_t a, std::int64_t r) {
      const std::int64_t shifted = r ? r * (std::int64_t{1} << q.res_shift[c]) : 0;
      return (a * q.mult[c] + q.offset[c] + shifted) >> q.shift[c];
    };
    const Range found = {value(acc[c].lo, residual.lo), value(acc[c].hi, residual.hi)};
    bound.raw = c ? Range{std::min(bound.raw.lo, found.lo), std::max(bound.raw.hi, found.hi)} : found;
  }
  bound.has_raw = true;
  bound.range = clipped(bound.raw, node.attrs.lo, node.attrs.hi);
  return bound;
}

Bound aligned_bound(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  const Alignment grid = alignment(graph, node);
  const std::int64_t half = grid.down ? std::int64_t{1} << (grid.down - 1) : 0;
  Bound bound;
  for (std::size_t i = 0; i < inputs.size(); i++)
    bound.total = bound.total + std::max(Magnitude::of(inputs[i].lo), Magnitude::of(inputs[i].hi)).shifted(grid.up[i]);
  bound.total = bound.total + Magnitude::of(half);
  if (bound.total.exceeds_int64()) return bound;
  Range sum;
  for (std::size_t i = 0; i < inputs.size(); i++) {
    // A range of zeros may meet any shift; every other product is at most `total`.
    const std::int64_t factor = std::int64_t{1} << grid.up[i];
    sum.lo += inputs[i].lo ? inputs[i].lo * factor : 0;
    sum.hi += inputs[i].hi ? inputs[i].hi * factor : 0;
  }
  bound.raw = {(sum.lo + half) >> grid.down, (sum.hi + half) >> grid.down};
  bound.has_raw = true;
  bound.range = clipped(bound.raw, node.attrs.lo, node.attrs.hi);
  return bound;
}

}  // namespace bitshift
