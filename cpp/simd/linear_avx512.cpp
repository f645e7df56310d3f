// Matrix products with AVX-512 VNNI and VBMI.
#define BITSHIFT_ISA_NAMESPACE avx512
#include <cstring>

#include "lists.h"
#include "micro_avx512.h"
#include "vec_avx512.h"

#include "requant.inc.h"

namespace bitshift::simd::avx512 {
namespace {

inline __m512i broadcast4(const std::uint8_t *p) {
  std::int32_t quad;
  std::memcpy(&quad, p, 4);
  return _mm512_set1_epi32(quad);
}

struct LinearOps {
  static constexpr int fused_rows(int, int planes) { return planes == 1 ? 8 : planes == 2 ? 5 : 4; }

  template <int Bits, int Planes>
  struct Levels {
    LevelTable<Bits> table[Planes];
    explicit Levels(const Weights &w) : Levels(w, Index<Planes>{}) {}

   private:
    template <int>
    struct Index {};
    Levels(const Weights &w, Index<1>) : table{LevelTable<Bits>(w.table[0])} {}
    Levels(const Weights &w, Index<2>) : table{LevelTable<Bits>(w.table[0]), LevelTable<Bits>(w.table[1])} {}
    Levels(const Weights &w, Index<3>)
        : table{LevelTable<Bits>(w.table[0]), LevelTable<Bits>(w.table[1]), LevelTable<Bits>(w.table[2])} {}
  };

  // vpdpbusd takes 4 cycles and starts one each cycle: with fewer than 4 sums a plane, every row gets several chains.
  template <int Bits, int Planes, int Rows>
  __attribute__((noinline)) static void micro(const Levels<Bits, Planes> &levels, const Weights &w, const std::uint8_t *packed,
                                              std::int64_t supers, const std::uint8_t *rows, std::int32_t *sums) {
    constexpr int kChains = Rows * Planes >= 4 ? 1 : Rows * Planes == 3 ? 2 : 4 / (Rows * Planes);
    const Levels<Bits, Planes> tables = levels;
    __m512i sum[Planes][Rows][kChains];
#pragma GCC unroll 3
    for (int p = 0; p < Planes; p++)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < kChains; c++) sum[p][r][c] = _mm512_setzero_si512();
    for (std::int64_t s = 0; s < supers; s++, packed += 64 * Bits, rows += 32 * Rows) {
      __m512i index[8];
      code_indices<Bits>(packed, index);
#pragma GCC unroll 8
      for (int z = 0; z < 8; z++) {
        __m512i level[Planes];
#pragma GCC unroll 3
        for (int p = 0; p < Planes; p++) level[p] = tables.table[p].look_up(index[z], z);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; r++) {
          const __m512i bytes = broadcast4(rows + (z * Rows + r) * 4);
#pragma GCC unroll 3
          for (int p = 0; p < Planes; p++) sum[p][r][z % kChains] = _mm512_dpbusd_epi32(sum[p][r][z % kChains], bytes, level[p]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 3
      for (int p = 0; p < Planes; p++) {
#pragma GCC unroll 4
        for (int c = 0; c < kChains; c++) total = _mm512_add_epi32(total, sum[p][r][c]);
        if (p + 1 < Planes) total = _mm512_sll_epi32(total, _mm_cvtsi32_si128(w.shift[p]));
      }
      _mm512_store_si512(sums + r * kLanes, total);
    }
  }
};

}  // namespace
}  // namespace bitshift::simd::avx512

#include "linear.inc.h"

namespace bitshift::simd::avx512 {

extern const LinearKernel *const linear_kernels[] = {&gemv, &fused, &gemm, nullptr};

}  // namespace bitshift::simd::avx512
