// What the ops with weights share: checks, the bound of sums of products, constants as the portable kernels read them.
#ifndef BITSHIFT_SRC_WEIGHTED_H
#define BITSHIFT_SRC_WEIGHTED_H

#include <algorithm>
#include <vector>

#include "ops.h"

namespace bitshift {

// Inputs, attributes and constants of the node's mode: integer, float with codes, or kept float with plain weights.
void check_mode(const Graph &graph, Node &node, const std::vector<const char *> &with_format,
                const std::vector<const char *> &without_format);
// The codes or weights: `rank` axes, none empty; sets attrs.format. `real`: whether the node computes floats.
const Constant &check_weights(const Graph &graph, Node &node, std::size_t rank, bool real);
// Shape of output and residual, one element a channel in the vectors.
void check_result(const Graph &graph, const Node &node, const Shape &shape, std::int64_t channels);

const Constant &weights_of(const Graph &graph, const Node &node);

// Bound of rule 4 behind sums of products. sums[p]: the levels that one output may meet, added up, of each channel; outputs meet
// one p each.
Bound bound_sums(const Graph &graph, const Node &node, const std::vector<std::vector<LevelSums>> &sums, const std::vector<Range> &inputs);

// The levels of one output after another.
template <class T, class Level>
auto level_rows(const PackedCodes &codes, const Level *levels) {
  return [&codes, levels, bytes = std::vector<std::uint8_t>(static_cast<std::size_t>(codes.per_row)),
          row = std::vector<T>(static_cast<std::size_t>(codes.per_row))](std::size_t o) mutable {
    codes.unpack(static_cast<std::int64_t>(o), 1, bytes.data());
    std::transform(bytes.begin(), bytes.end(), row.begin(), [levels](std::uint8_t code) { return static_cast<T>(levels[code]); });
    return static_cast<const T *>(row.data());
  };
}

// Where a step finds its operands.
struct Operands {
  int x, residual, out;
  bsk_dtype in, res, out_type;
};
Operands operands_of(const Graph &graph, const Node &node);

}  // namespace bitshift
#endif
