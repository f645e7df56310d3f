// Matrix products with 256-bit registers. Included by linear_<isa>.cpp behind BITSHIFT_ISA_NAMESPACE (and BITSHIFT_DPBUSD).
#include <cstring>

#include "lists.h"
#include "micro_avx2.h"
#include "vec_avx2.h"

#include "requant.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

struct LinearOps {
  static constexpr int fused_rows(int bits, int) { return bits < 8 ? 4 : 3; }  // planes are added one after the other

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
    __m256i parts[Planes][Rows][2];
    add_up(levels, packed, supers, rows, parts);
    for (int r = 0; r < Rows; ++r)
      for (int half = 0; half < 2; ++half) {
        __m256i total = parts[0][r][half];
        for (int p = 1; p < Planes; ++p)
          total = _mm256_add_epi32(_mm256_sll_epi32(total, _mm_cvtsi32_si128(w.shift[p - 1])), parts[p][r][half]);
        _mm256_store_si256(reinterpret_cast<__m256i *>(sums + r * kLanes + 8 * half), total);
      }
  }

 private:
  template <int Bits, int Planes, int Rows>
  static void add_up(const Levels<Bits, Planes> &levels, const std::uint8_t *packed, std::int64_t supers, const std::uint8_t *rows,
                     __m256i (&parts)[Planes][Rows][2]) {
#if !defined(BITSHIFT_DPBUSD)
    if constexpr (Bits <= 4)
      if (levels.burst >= 8) return micro_parts<Pairs, 8>(levels, packed, supers, rows, parts);
    if constexpr (Bits <= 5)
      if (levels.burst >= 4) return micro_parts<Pairs, 4>(levels, packed, supers, rows, parts);
#endif
    micro_parts<Quads, 8>(levels, packed, supers, rows, parts);
  }

  // A superblock is read once, its halves one after the other: 8 lanes of all rows and planes are one register each. They are
  // added to int32 sums in memory every Burst steps, so that the tables find room beside them.
  template <class How, int Burst, int Bits, int Planes, int Rows>
  __attribute__((noinline)) static void micro_parts(const Levels<Bits, Planes> &levels, const std::uint8_t *packed, std::int64_t supers,
                                                    const std::uint8_t *rows, __m256i (&parts)[Planes][Rows][2]) {
    for (int i = 0; i < 2 * Planes * Rows; ++i) (&parts[0][0][0])[i] = _mm256_setzero_si256();
    for (std::int64_t s = 0; s < supers; ++s, packed += 64 * Bits, rows += 32 * Rows) {
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 3
        for (int p = 0; p < Planes; ++p) {
          asm("" : : : "memory");  // sums stay where they are
          __m256i sum[Rows];
          each<8>([&](auto z) __attribute__((always_inline)) {
            constexpr int kZ = z.value;
            if constexpr (Bits > 4) asm("" : : : "memory");  // so do tables
            __m256i level = levels.table[p].template look_up<kZ>(code_of<Bits, kZ>(packed + 32 * half));
            asm("" : "+x"(level));  // one step behind the other
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) {
              const __m256i bytes = four_inputs(rows + (kZ * Rows + r) * kStep);
              sum[r] = kZ % Burst == 0 ? How::first(bytes, level) : How::add(sum[r], bytes, level);
              asm("" : "+x"(sum[r]));  // in this order
              if (kZ % Burst == Burst - 1) parts[p][r][half] = _mm256_add_epi32(parts[p][r][half], How::total(sum[r]));
            }
          });
        }
      }
    }
  }
};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "linear.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

extern const LinearKernel *const linear_kernels[] = {&gemv, &gemm, nullptr};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
