// Where every value of a sample lives: a static memory plan that reuses the bytes of values no longer needed.
#ifndef BITSHIFT_SRC_PLAN_H
#define BITSHIFT_SRC_PLAN_H

#include "ops.h"

namespace bitshift {

constexpr std::size_t kAlignment = 64;

struct Plan {
  // For each value the value whose bytes it shares: itself, or the source of a chain of reshapes.
  std::vector<int> root;
  // Byte offset in the arena; meaningful for roots that are no graph inputs (those lie with the caller).
  std::vector<std::size_t> offset;
  std::vector<std::size_t> scratch;  // of each step
  std::size_t arena = 0;             // bytes
};

// Best fit in execution order: a value's bytes are taken when its node runs and given back behind its last use, a step's
// scratch memory lives for the step. Throws UsageError if the arena would exceed `limit` bytes.
Plan make_plan(const Graph &graph, const std::vector<Step> &steps, std::uint64_t limit);

}  // namespace bitshift
#endif
