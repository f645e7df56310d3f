// embedding: rows of a table by number.
#include <cstring>
#include <memory>

#include "rules.h"
#include "weighted.h"

namespace bitshift {
namespace {

bool makes_floats(const Graph &graph, const Node &node) { return graph.out(node).type.real; }

void check_embedding(const Graph &graph, Node &node) {
  const bool real = makes_floats(graph, node), plain = node.constant(Role::weight) >= 0;
  if (plain)
    check_parts(graph, node, {1, 1, {}, {}, {Role::weight}});
  else if (real)
    check_parts(graph, node, {1, 1, {"format"}, {}, {Role::codes, Role::scale, Role::bias}});
  else
    check_parts(graph, node, {1, 1, {"format"}, {"clamp"}, {Role::codes, Role::offset, Role::mult, Role::shift}});
  if (plain && !real) refuse(graph, node, "the output's type", graph.out(node).type.text(), "f32 for float weights");
  if (!real) read_clamp(graph, node);
  const Shape &w = check_weights(graph, node, 2, real).shape;
  const Value &ids = graph.in(node);
  if (check_fixed(graph, node, ids).frac != 0)
    refuse(graph, node, "the type of " + quoted(ids.name), ids.type.text(), "integers with frac 0, the numbers of rows");
  Shape shape = ids.shape;
  shape.push_back(w[1]);
  check_shape(graph, node, shape);
  check_vectors(graph, node, w[0], false);
}

Bound bound_embedding(const Graph &graph, const Node &node, const std::vector<Range> &inputs) {
  const Constant &table = weights_of(graph, node);
  if (inputs[0].lo < 0 || inputs[0].hi >= table.shape[0])
    refuse(graph, node, "the range of the ids " + quoted(graph.in(node).name), std::to_string(inputs[0].lo) + " to " + std::to_string(inputs[0].hi),
           "0 to " + std::to_string(table.shape[0] - 1) + ", the rows of the table; read them from an input of the graph, or clamp them");
  if (makes_floats(graph, node)) return {};
  std::vector<Range> levels(static_cast<std::size_t>(table.shape[0]));
  std::vector<std::uint8_t> row(static_cast<std::size_t>(table.codes.per_row));
  Bound bound;
  for (std::size_t v = 0; v < levels.size(); v++) {
    table.codes.unpack(static_cast<std::int64_t>(v), 1, row.data());
    levels[v] = {node.attrs.format->levels[row[0]], node.attrs.format->levels[row[0]]};
    for (std::uint8_t code : row) {
      const std::int64_t level = node.attrs.format->levels[code];
      levels[v] = {std::min(levels[v].lo, level), std::max(levels[v].hi, level)};
    }
    bound.acc = std::max(bound.acc, std::max(Magnitude::of(levels[v].lo), Magnitude::of(levels[v].hi)));
  }
  Bound whole = rule4_bound(graph, node, levels, {});
  whole.acc = bound.acc;
  return whole;
}

// The row of id n to out.
struct Table {
  std::vector<std::uint8_t> bytes;  // packed rows
  PackedCodes codes;
  std::vector<float> reals, scale, bias;
  RequantVectors vectors;
  std::int32_t lo = 0, hi = 0;
  std::size_t width = 0;

  void row(std::size_t id, std::uint8_t *unpacked, float *out) const {
    if (!codes.format) {
      std::memcpy(out, reals.data() + id * width, width * sizeof(float));
      return;
    }
    codes.unpack(static_cast<std::int64_t>(id), 1, unpacked);
    for (std::size_t i = 0; i < width; i++) out[i] = codes.format->levels_f32[unpacked[i]] * scale[id] + bias[id];
  }

  void row(std::size_t id, std::uint8_t *unpacked, std::uint8_t *out, bsk_dtype type) const {
    codes.unpack(static_cast<std::int64_t>(id), 1, unpacked);
    constexpr std::size_t kBlock = 64;
    std::int32_t levels[kBlock];
    for (std::size_t at = 0; at < width; at += kBlock) {
      const std::size_t n = std::min(kBlock, width - at);
      for (std::size_t i = 0; i < n; i++) levels[i] = codes.format->levels[unpacked[at + i]];
      bsk_rescale_int(vectors.mult[id], vectors.offset[id], vectors.shift[id], lo, hi, levels, BSK_I32, out + at * bsk_dtype_size(type), type, n);
    }
  }
};

std::size_t id_at(const void *ids, bsk_dtype type, std::size_t i) {
  switch (type) {
    case BSK_U8: return static_cast<const std::uint8_t *>(ids)[i];
    case BSK_I8: return static_cast<std::size_t>(static_cast<const std::int8_t *>(ids)[i]);
    case BSK_I16: return static_cast<std::size_t>(static_cast<const std::int16_t *>(ids)[i]);
    default: return static_cast<std::size_t>(static_cast<const std::int32_t *>(ids)[i]);
  }
}

// Ids have been checked: at the border those of inputs, by their bound those that nodes compute.
PlanarStep compile_embedding(const Graph &graph, const Node &node, const Bound &) {
  const Constant &w = weights_of(graph, node);
  const auto table = std::make_shared<Table>();
  table->width = static_cast<std::size_t>(w.shape[1]);
  if (w.format) {
    table->bytes.assign(w.codes.data, w.codes.data + w.codes.bytes());
    table->codes = {table->bytes.data(), w.format, w.codes.rows, w.codes.per_row};
  } else {
    table->reals = w.reals;
  }
  const std::size_t count = static_cast<std::size_t>(graph.in(node).size);
  const int ids = node.inputs[0], out = node.output;
  const bsk_dtype in = graph.in(node).type.dtype(), type = graph.out(node).type.dtype();
  PlanarStep step;
  step.scratch = table->width;
  if (makes_floats(graph, node)) {
    table->scale = float_vector(graph, node, Role::scale, w.shape[0]);
    table->bias = float_vector(graph, node, Role::bias, w.shape[0]);
    step.run = [=](const Sample &f) {
      for (std::size_t i = 0; i < count; i++)
        table->row(id_at(f.at(ids), in, i), static_cast<std::uint8_t *>(f.scratch), f.at<float>(out) + i * table->width);
    };
    return step;
  }
  table->vectors = requant_vectors(graph, node, w.shape[0]);
  table->lo = static_cast<std::int32_t>(node.attrs.lo);
  table->hi = static_cast<std::int32_t>(node.attrs.hi);
  const std::size_t bytes = table->width * bsk_dtype_size(type);
  step.run = [=](const Sample &f) {
    for (std::size_t i = 0; i < count; i++)
      table->row(id_at(f.at(ids), in, i), static_cast<std::uint8_t *>(f.scratch), f.at<std::uint8_t>(out) + i * bytes, type);
  };
  return step;
}

}  // namespace

const OpSpec embedding_op = {"embedding", check_embedding, bound_embedding, one_each, compile_embedding, 2};

}  // namespace bitshift
