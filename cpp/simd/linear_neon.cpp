// Matrix products with NEON (AArch64) and its dot product.
#define BITSHIFT_ISA_NAMESPACE neon

#include <cstring>

#include "lists.h"
#include "micro_neon.h"
#include "vec_neon.h"

#include "requant.inc.h"

namespace bitshift::simd::neon {
namespace {

struct LinearOps {
  static constexpr int fused_rows(int, int planes) { return planes == 1 ? 4 : 2; }  // a row takes a register a plane, besides the levels' own

  template <int Bits, int Planes>
  struct Levels {
    LevelTable<Bits> table[Planes];
    explicit Levels(const Weights &w) {
      for (int p = 0; p < Planes; ++p) table[p] = LevelTable<Bits>(w.table[p]);
    }
  };

  // Four outputs at a time go through the block: it stays in L1. `own` sums the levels themselves (see micro_neon.h).
  template <int Bits, int Planes, int Rows>
  __attribute__((noinline)) static void micro(const Levels<Bits, Planes> &levels, const Weights &w, const std::uint8_t *packed,
                                              std::int64_t supers, const std::uint8_t *rows, std::int32_t *sums) {
    const int8x16_t ones = vdupq_n_s8(1);
    for (int quarter = 0; quarter < 4; ++quarter) {
      int32x4_t sum[Planes][Rows], own[Planes];
      for (int p = 0; p < Planes; ++p) {
        own[p] = vdupq_n_s32(0);
        for (int r = 0; r < Rows; ++r) sum[p][r] = vdupq_n_s32(0);
      }
      const std::uint8_t *block = packed + 16 * quarter, *bytes = rows;
      for (std::int64_t s = 0; s < supers; ++s, block += 64 * Bits, bytes += 32 * Rows)
        each<8>([&](auto z) __attribute__((always_inline)) {
          constexpr int kZ = z.value;
          const uint8x16_t code = code_of<Bits, kZ>(block);
#pragma GCC unroll 3
          for (int p = 0; p < Planes; ++p) {
            const int8x16_t level = levels.table[p].look_up(code);
            own[p] = vdotq_s32(own[p], level, ones);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) sum[p][r] = vdotq_s32(sum[p][r], level, four_inputs(bytes + (kZ * Rows + r) * kStep));
          }
        });
      for (int r = 0; r < Rows; ++r) {
        int32x4_t total = vdupq_n_s32(0);
        for (int p = 0; p < Planes; ++p) {
          if (p > 0) total = vshlq_s32(total, vdupq_n_s32(w.shift[p - 1]));
          total = vaddq_s32(total, vaddq_s32(sum[p][r], vshlq_n_s32(own[p], 7)));
        }
        vst1q_s32(sums + r * kLanes + 4 * quarter, total);
      }
    }
  }
};

}  // namespace
}  // namespace bitshift::simd::neon

#include "linear.inc.h"

namespace bitshift::simd::neon {

extern const LinearKernel *const linear_kernels[] = {&gemv, &gemm, nullptr};

}  // namespace bitshift::simd::neon
