// Rule 4 of a node as the fast kernels read it (simd::Requant), with the biases of stored bytes folded in.
#ifndef BITSHIFT_SRC_REQUANT_H
#define BITSHIFT_SRC_REQUANT_H

#include <cstdint>
#include <vector>

#include "../simd/common.h"
#include "ops.h"

namespace bitshift {

struct FoldedRequant {
  std::vector<std::int32_t> mult, offset32, shift, res_shift, correction;
  std::vector<std::int64_t> offset64;
  simd::Requant view;  // its pointers are set by point()

  void point();
};

// in_zero, res_zero, out_zero: what is added to integers where they are stored as unsigned bytes. level_sums: of each output.
FoldedRequant fold_requant(const Graph &graph, const Node &node, const Bound &bound, const std::vector<std::int64_t> &level_sums,
                           int in_zero, int res_zero, int out_zero);

}  // namespace bitshift
#endif
