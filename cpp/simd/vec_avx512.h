// 16 int32 lanes in AVX-512: what requant.inc.h and winograd.inc.h need of an instruction set.
#ifndef BITSHIFT_SIMD_VEC_AVX512_H
#define BITSHIFT_SIMD_VEC_AVX512_H

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 takes the "any value will do" operands of its own intrinsics for a mistake of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "common.h"

namespace bitshift::simd::avx512 {

struct Vec {
  static constexpr int kBytes = 64;  // of a register
  using I = __m512i;  // 16 lanes of int32; all arithmetic wraps

  static I set(std::int32_t v) { return _mm512_set1_epi32(v); }
  static I load(const std::int32_t *p) { return _mm512_loadu_si512(p); }
  static void store(std::int32_t *p, I v) { _mm512_storeu_si512(p, v); }
  // v, in a register: gcc would rather load twice than keep a value that two instructions use.
  static I pin(I v) {
    asm("" : "+v"(v));
    return v;
  }
  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I min(I a, I b) { return _mm512_min_epi32(a, b); }
  static I max(I a, I b) { return _mm512_max_epi32(a, b); }
  // Counts 0..62: 32 and more give 0, or the sign.
  static I shl(I a, I count) { return _mm512_sllv_epi32(a, count); }
  static I sar(I a, I count) { return _mm512_srav_epi32(a, count); }
  template <int N>
  static I sar(I a) { return _mm512_srai_epi32(a, N); }

  // 16 elements, widened. All 16 may be read, whatever the number of outputs: maps have slack behind them.
  static I load_u8(const std::uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
  static I load_i8(const std::uint8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
  static I load_i16(const std::uint8_t *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
  static I load_i32(const std::uint8_t *p) { return _mm512_loadu_si512(p); }

  // The low 1, 2 or 4 bytes of the first `lanes` lanes.
  static void store_8(std::uint8_t *p, I v, int lanes) {
    const __m128i b = _mm512_cvtepi32_epi8(v);
    if (lanes == kLanes) _mm_storeu_si128(reinterpret_cast<__m128i *>(p), b);
    else _mm_mask_storeu_epi8(p, first(lanes), b);
  }
  static void store_16(std::uint8_t *p, I v, int lanes) { _mm256_mask_storeu_epi16(p, first(lanes), _mm512_cvtepi32_epi16(v)); }
  static void store_32(std::uint8_t *p, I v, int lanes) { _mm512_mask_storeu_epi32(p, first(lanes), v); }

  // clamp((acc*mult + offset + (res << res_shift)) >> shift, lo, hi) in 64 bits.
  static I wide(I acc, I res, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    const __m256i low = half(acc, res, 0, mult, offset, res_shift, shift, lo, hi);
    const __m256i high = half(acc, res, 1, mult + 8, offset + 8, res_shift + 8, shift + 8, lo, hi);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }

  // Four vectors to 64 bytes in their order, each saturated to what a byte holds and clamped.
  struct Clamp {
    __m512i lo, hi, flip;
    bool with_sign;
  };
  static Clamp clamp_of(const Requant &q) {
    const auto byte = [&](std::int32_t v) { return _mm512_set1_epi8(static_cast<char>(v + q.out_zero)); };
    return {byte(q.lo), byte(q.hi), _mm512_set1_epi8(static_cast<char>(q.out_zero)), q.out_zero != 0};
  }
  using Bytes = __m512i;
  static Bytes pack(I a, I b, I c, I d, const Clamp &k) {
    const __m512i ab = _mm512_packs_epi32(a, b), cd = _mm512_packs_epi32(c, d);  // by 128-bit lanes: a0 b0 a1 b1 ...
    const __m512i bytes = k.with_sign ? _mm512_xor_si512(_mm512_packs_epi16(ab, cd), k.flip) : _mm512_packus_epi16(ab, cd);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_min_epu8(_mm512_max_epu8(bytes, k.lo), k.hi));
  }
  // The first `count` bytes of quarter `index` (count <= 16), or of half `index` (count <= 32).
  static void store_quarter(std::uint8_t *p, Bytes v, int index, int count) {
    const __m128i b = index == 0   ? _mm512_castsi512_si128(v)
                      : index == 1 ? _mm512_extracti32x4_epi32(v, 1)
                      : index == 2 ? _mm512_extracti32x4_epi32(v, 2)
                                   : _mm512_extracti32x4_epi32(v, 3);
    if (count == 16) _mm_storeu_si128(reinterpret_cast<__m128i *>(p), b);
    else _mm_mask_storeu_epi8(p, first(count), b);
  }
  static void store_half(std::uint8_t *p, Bytes v, int index, int count) {
    const __m256i b = index == 0 ? _mm512_castsi512_si256(v) : _mm512_extracti64x4_epi64(v, 1);
    if (count == 32) _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), b);
    else _mm256_mask_storeu_epi8(p, (1u << count) - 1u, b);
  }

 private:
  static __mmask16 first(int lanes) { return static_cast<__mmask16>((1u << lanes) - 1u); }

  static __m256i half(I acc, I res, int index, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                      const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    const auto part = [index](I v) { return index == 0 ? _mm512_castsi512_si256(v) : _mm512_extracti64x4_epi64(v, 1); };
    const auto eight = [](const std::int32_t *p) { return _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); };
    __m512i v = _mm512_mul_epi32(_mm512_cvtepi32_epi64(part(acc)), eight(mult));
    v = _mm512_add_epi64(v, _mm512_loadu_si512(offset));
    v = _mm512_add_epi64(v, _mm512_sllv_epi64(_mm512_cvtepi32_epi64(part(res)), eight(res_shift)));
    v = _mm512_srav_epi64(v, eight(shift));
    v = _mm512_min_epi64(_mm512_max_epi64(v, _mm512_set1_epi64(lo)), _mm512_set1_epi64(hi));
    return _mm512_cvtepi64_epi32(v);
  }
};

}  // namespace bitshift::simd::avx512
#endif
