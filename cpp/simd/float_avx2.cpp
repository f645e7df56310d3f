// Float products with AVX2 and FMA.
#define BITSHIFT_ISA_NAMESPACE avx2
#include <immintrin.h>

#include "common.h"

namespace bitshift::simd::avx2 {
namespace {

struct FloatOps {
  static constexpr int kRows = 5;
  static constexpr bool kInRegisters = false;
  struct F {
    __m256 low, high;  // lanes 0-7, 8-15
  };
  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float *p, F v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F madd(F a, F b, F sum) { return {_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)}; }
  static F madd(F a, const float *b, F sum) {
    const __m256 x = _mm256_broadcast_ss(b);
    return {_mm256_fmadd_ps(a.low, x, sum.low), _mm256_fmadd_ps(a.high, x, sum.high)};
  }
  template <bool Zeros>
  static F add_exponent(F addend, const std::uint32_t *x, const std::uint32_t *mask, F sum) {
    const __m256i bits = _mm256_set1_epi32(static_cast<int>(*x)), use = _mm256_set1_epi32(static_cast<int>(*mask));
    const auto half = [&](__m256 a8, __m256 sum8) {
      const __m256i a = _mm256_castps_si256(a8);
      __m256i product = _mm256_add_epi32(bits, _mm256_and_si256(a, use));
      if constexpr (Zeros) product = _mm256_andnot_si256(_mm256_srai_epi32(_mm256_slli_epi32(a, 31), 31), product);
      return _mm256_add_ps(sum8, _mm256_castsi256_ps(product));
    };
    return {half(addend.low, sum.low), half(addend.high, sum.high)};
  }

  // The codes of one input lie in byte j of every 32-bit lane and are shifted down. vpermps then reads 3 bits of them: up to 3 bits
  // are one look-up, 4 bits two and a choice by the highest one; 5 and 6 bits are gathered.
  template <int Bits>
  struct Levels {
    __m256 table[Bits == 4 ? 2 : 1];
    const float *all;

    explicit Levels(const float *levels) : all(levels) {
      alignas(32) float lanes[8];
      for (int t = 0; t < (Bits == 4 ? 2 : 1); t++) {
        for (int i = 0; i < 8; i++) lanes[i] = levels[Bits == 4 ? 8 * t + i : i & ((1 << Bits) - 1)];
        table[t] = _mm256_load_ps(lanes);
      }
    }

    const std::uint8_t *codes(const std::uint8_t *packed) const { return packed; }

    F at(const std::uint8_t *packed, int z, int j) const { return {half(packed, z, j), half(packed + 32, z, j)}; }

   private:
    static __m256i row(const std::uint8_t *packed, int r, int shift) {
      const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i *>(packed + 64 * r));
      return shift >= 0 ? _mm256_srli_epi32(x, shift) : _mm256_slli_epi32(x, -shift);
    }
    static __m256i only(__m256i x, int mask) { return _mm256_and_si256(x, _mm256_set1_epi32(mask)); }

    // The code at bit 0 of every lane; above it whatever lies there, unless Bits > 3.
    static __m256i code(const std::uint8_t *packed, int z, int j) {
      const int at = 8 * j;
      if constexpr (Bits == 1) return row(packed, 0, at + z);
      else if constexpr (Bits == 2) return row(packed, z / 4, at + 2 * (z % 4));
      else if constexpr (Bits == 3) {
        if (z < 6) return row(packed, z / 2, at + 3 * (z % 2));
        return _mm256_or_si256(only(row(packed, z - 6, at + 6), 3), only(row(packed, 2, at + z - 2), 4));
      } else if constexpr (Bits == 8) {
        return row(packed, z, at);
      } else {
        __m256i c = only(row(packed, z / 2, at + 4 * (z % 2)), 15);
        if constexpr (Bits >= 6) c = _mm256_or_si256(c, only(row(packed, 4 + z / 4, at + 2 * (z % 4) - 4), 0x30));
        if constexpr (Bits % 2 == 1) c = _mm256_or_si256(c, only(row(packed, Bits - 1, at + z - (Bits - 1)), 1 << (Bits - 1)));
        return c;
      }
    }

    __m256 half(const std::uint8_t *packed, int z, int j) const {
      const __m256i c = code(packed, z, j);
      if constexpr (Bits <= 3) return _mm256_permutevar8x32_ps(table[0], c);
      else if constexpr (Bits == 4) {
        const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(c, 28));
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table[0], c), _mm256_permutevar8x32_ps(table[1], c), high);
      } else if constexpr (Bits < 7) {
        return _mm256_i32gather_ps(all, c, 4);
      } else {
        return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(c, 32 - Bits), 32 - Bits));
      }
    }
  };
};

}  // namespace
}  // namespace bitshift::simd::avx2

#include "float.inc.h"

#include "expadd.inc.h"

namespace bitshift::simd::avx2 {

extern const FloatKernel *const float_kernels[] = {&f32_gemv, &f32_gemm, &f32_expadd, &f32_conv, nullptr};

}  // namespace bitshift::simd::avx2
