// Matrix products with 256-bit registers. Included by linear_<isa>.cpp behind BITSHIFT_ISA_NAMESPACE (and BITSHIFT_DPBUSD).
#include <cstring>

#include "lists.h"
#include "micro_avx2.h"
#include "vec_avx2.h"

#include "requant.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

struct LinearOps {
  static constexpr int kFusedRows = 4;

  template <int Bits, int Planes>
  struct Levels {
    LevelTable<Bits> table[Planes];
    int burst;  // of the plane with the largest level

    explicit Levels(const Weights &w) {
      MicroArgs a;
      set_bursts(a, w, 255);
      burst = a.burst[0];
      for (int p = 0; p < Planes; ++p) {
        table[p] = LevelTable<Bits>(w.table[p]);
        burst = a.burst[p] < burst ? a.burst[p] : burst;
      }
    }
  };

  template <int Bits, int Planes, int Rows>
  static void micro(const Levels<Bits, Planes> &levels, const Weights &w, const std::uint8_t *packed, std::int64_t supers,
                    const std::uint8_t *rows, std::int32_t *sums) {
#if !defined(BITSHIFT_DPBUSD)
    if constexpr (Bits <= 4)
      if (levels.burst >= 8) return micro_block<Pairs, 8, Bits, Planes, Rows>(levels, w, packed, supers, rows, sums);
    if constexpr (Bits <= 5)
      if (levels.burst >= 4) return micro_block<Pairs, 4, Bits, Planes, Rows>(levels, w, packed, supers, rows, sums);
#endif
    micro_block<Quads, 8, Bits, Planes, Rows>(levels, w, packed, supers, rows, sums);
  }

 private:
  // A superblock is read once, its halves one after the other: 8 lanes of all rows and planes are one register each. They are
  // added to int32 sums in memory every Burst steps, so that the tables find room beside them.
  template <class How, int Burst, int Bits, int Planes, int Rows>
  __attribute__((noinline)) static void micro_block(const Levels<Bits, Planes> &levels, const Weights &w, const std::uint8_t *packed,
                                                    std::int64_t supers, const std::uint8_t *rows, std::int32_t *sums) {
    __m256i parts[Planes][Rows][2] = {};
    for (std::int64_t s = 0; s < supers; ++s, packed += 64 * Bits, rows += 32 * Rows) {
      for (int half = 0; half < 2; ++half) {
        asm("" : : "r"(parts) : "memory");  // sums stay where they are
        __m256i sum[Planes][Rows];
        each<8>([&](auto z) __attribute__((always_inline)) {
          constexpr int kZ = z.value;
          const __m256i code = code_of<Bits, kZ>(packed + 32 * half);
#pragma GCC unroll 3
          for (int p = 0; p < Planes; ++p) {
            const __m256i level = levels.table[p].template look_up<kZ>(code);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) {
              const __m256i bytes = four_inputs(rows + (kZ * Rows + r) * kStep);
              sum[p][r] = kZ % Burst == 0 ? How::first(bytes, level) : How::add(sum[p][r], bytes, level);
              if (kZ % Burst == Burst - 1) parts[p][r][half] = _mm256_add_epi32(parts[p][r][half], How::total(sum[p][r]));
            }
          }
        });
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int half = 0; half < 2; ++half) {
        __m256i total = parts[0][r][half];
        for (int p = 1; p < Planes; ++p)
          total = _mm256_add_epi32(_mm256_sll_epi32(total, _mm_cvtsi32_si128(w.shift[p - 1])), parts[p][r][half]);
        _mm256_store_si256(reinterpret_cast<__m256i *>(sums + r * kLanes + 8 * half), total);
      }
  }
};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "linear.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

extern const LinearKernel *const linear_kernels[] = {&gemv, &gemm, nullptr};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
