// Where every area lies while a number of samples is run: a static memory plan that reuses the bytes of areas no longer needed.
#ifndef BITSHIFT_SRC_PLAN_H
#define BITSHIFT_SRC_PLAN_H

#include "program.h"

namespace bitshift {

constexpr std::size_t kAlignment = 64;

struct Plan {
  std::int64_t samples = 0;           // that it has room for
  std::vector<std::size_t> offset;    // of each area in the arena; meaningful for roots that do not lie with the caller
  std::vector<std::uint8_t> kept;     // of each area: it shares its bytes with no other area and no scratch memory
  std::vector<std::size_t> scratch;   // offset of each step's
  std::size_t arena = 0;              // bytes
};

// Best fit in execution order: an area's bytes are taken when its first step runs and given back behind its last use, a step's
// scratch memory lives for the step. Throws UsageError if the arena would exceed `limit` bytes.
Plan make_plan(const Program &program, std::int64_t samples, int threads, std::uint64_t limit);

}  // namespace bitshift
#endif
