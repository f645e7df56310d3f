#include "bounds.h"

#include <algorithm>

#include "error.h"
#include "ops.h"

namespace bitshift {

Range clipped(Range raw, std::int64_t lo, std::int64_t hi) {
  return {std::min(std::max(raw.lo, lo), hi), std::max(std::min(raw.hi, hi), lo)};
}

namespace {

void refuse_overflow(const Graph &graph, const Node &node, const Bound &bound) {
  const std::string where = "layer " + quoted(node.source.empty() ? graph.out(node).name : node.source);
  if (bound.acc.exceeds_int32()) {
    const std::string channel = bound.channel >= 0 ? " for channel " + std::to_string(bound.channel) : "";
    throw ModelFileError(where + ": accumulator bound " + bound.acc.text() + channel +
                         " exceeds int32; use a format with smaller levels or activations with fewer bits");
  }
  if (bound.total.exceeds_int64())
    throw ModelFileError(where + ": the sum before the shift can reach " + bound.total.text() +
                         ", which exceeds int64; use smaller mult, offset, res_shift or fewer bits");
  const ValueType &type = graph.out(node).type;
  if (bound.has_raw && !type.real && type.bits == 32 && (bound.raw.lo < type.lo() || bound.raw.hi > type.hi()))
    throw ModelFileError(where + ": the wide value " + quoted(graph.out(node).name) + " can reach " +
                         std::to_string(bound.raw.lo < type.lo() ? bound.raw.lo : bound.raw.hi) +
                         ", which exceeds int32; use a coarser grid (a smaller frac) for it, or quantise its inputs to fewer bits");
}

}  // namespace

std::vector<Range> input_ranges(const Graph &graph) {
  std::vector<Range> ranges;
  std::vector<int> origin(graph.values.size(), -1);  // by value: the input whose elements it holds, in any order
  for (int index : graph.inputs) {
    const ValueType &type = graph.values[static_cast<std::size_t>(index)].type;
    origin[static_cast<std::size_t>(index)] = static_cast<int>(ranges.size());
    ranges.push_back(type.real ? Range{} : Range{type.lo(), type.hi()});
  }
  for (const Node &node : graph.nodes) {
    const int from = node.inputs.empty() ? -1 : origin[static_cast<std::size_t>(node.inputs[0])];
    if (from < 0) continue;
    if (node.op == &reshape_op || node.op == &transpose_op) origin[static_cast<std::size_t>(node.output)] = from;
    if (node.op == &embedding_op) {
      Range &range = ranges[static_cast<std::size_t>(from)];
      const Constant *table = graph.constant(node, Role::codes);
      if (!table) table = graph.constant(node, Role::weight);
      range = {std::max<std::int64_t>(range.lo, 0), std::min(range.hi, table->shape[0] - 1)};
    }
  }
  return ranges;
}

std::vector<Bound> check_bounds(const Graph &graph) {
  std::vector<Range> ranges(graph.values.size());
  const std::vector<Range> given = input_ranges(graph);
  for (std::size_t i = 0; i < given.size(); i++) ranges[static_cast<std::size_t>(graph.inputs[i])] = given[i];
  std::vector<Bound> bounds;
  for (const Node &node : graph.nodes) {
    std::vector<Range> inputs;
    for (int index : node.inputs) inputs.push_back(ranges[static_cast<std::size_t>(index)]);
    bounds.push_back(node.op->bound(graph, node, inputs));
    refuse_overflow(graph, node, bounds.back());
    ranges[static_cast<std::size_t>(node.output)] = bounds.back().range;
  }
  return bounds;
}

}  // namespace bitshift
