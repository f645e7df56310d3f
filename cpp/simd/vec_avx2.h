// 16 int32 lanes in two AVX2 registers: what requant.inc.h and winograd.inc.h need of an instruction set (see vec_avx512.h).
#ifndef BITSHIFT_SIMD_VEC_AVX2_H
#define BITSHIFT_SIMD_VEC_AVX2_H

#include <immintrin.h>

#include <cstring>

#include "common.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

struct Vec {
  static constexpr int kBytes = 32;  // of a register
  struct I {
    __m256i low, high;  // lanes 0-7, 8-15; all arithmetic wraps
  };

  static I set(std::int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static I load(const std::int32_t *p) { return {half(p), half(p + 8)}; }
  static void store(std::int32_t *p, I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), v.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), v.high);
  }
  // v, in registers: gcc would rather load twice than keep a value that two instructions use.
  static I pin(I v) {
    asm("" : "+x"(v.low), "+x"(v.high));
    return v;
  }
  static I add(I a, I b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  static I sub(I a, I b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
  static I mul(I a, I b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
  static I min(I a, I b) { return {_mm256_min_epi32(a.low, b.low), _mm256_min_epi32(a.high, b.high)}; }
  static I max(I a, I b) { return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)}; }
  // Counts 0..62: 32 and more give 0, or the sign.
  static I shl(I a, I count) { return {_mm256_sllv_epi32(a.low, count.low), _mm256_sllv_epi32(a.high, count.high)}; }
  static I sar(I a, I count) { return {_mm256_srav_epi32(a.low, count.low), _mm256_srav_epi32(a.high, count.high)}; }
  template <int N>
  static I sar(I a) {
    return {_mm256_srai_epi32(a.low, N), _mm256_srai_epi32(a.high, N)};
  }

  // 16 elements, widened. All 16 may be read, whatever the number of outputs: maps have slack behind them.
  static I load_u8(const std::uint8_t *p) { return {_mm256_cvtepu8_epi32(eight_bytes(p)), _mm256_cvtepu8_epi32(eight_bytes(p + 8))}; }
  static I load_i8(const std::uint8_t *p) { return {_mm256_cvtepi8_epi32(eight_bytes(p)), _mm256_cvtepi8_epi32(eight_bytes(p + 8))}; }
  static I load_i16(const std::uint8_t *p) { return {_mm256_cvtepi16_epi32(sixteen_bytes(p)), _mm256_cvtepi16_epi32(sixteen_bytes(p + 16))}; }
  static I load_i32(const std::uint8_t *p) { return {half(p), half(p + 32)}; }

  // The low 1, 2 or 4 bytes of the first `lanes` lanes.
  static void store_8(std::uint8_t *p, I v, int lanes) {
    const __m256i low = _mm256_set1_epi32(0xff);  // so that neither pack saturates
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(v.low, low), _mm256_and_si256(v.high, low));  // 0-3 8-11 4-7 12-15
    const __m256i bytes = _mm256_packus_epi16(words, words);  // 0-3 8-11 0-3 8-11, 4-7 12-15 4-7 12-15
    put(p, _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)), lanes);
  }
  static void store_16(std::uint8_t *p, I v, int lanes) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    const __m256i words = _mm256_packus_epi32(_mm256_and_si256(v.low, low), _mm256_and_si256(v.high, low));
    put(p, _mm256_permute4x64_epi64(words, 0xd8), 2 * lanes);
  }
  static void store_32(std::uint8_t *p, I v, int lanes) { put(p, v, 4 * lanes); }

  // clamp((acc*mult + offset + (res << res_shift)) >> shift, lo, hi) in 64 bits.
  static I wide(I acc, I res, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    __m128i four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      four[i] = quarter(part(acc, i), part(res, i), mult + 4 * i, offset + 4 * i, res_shift + 4 * i, shift + 4 * i, lo, hi);
    return {_mm256_set_m128i(four[1], four[0]), _mm256_set_m128i(four[3], four[2])};
  }

  // Four vectors to 64 bytes in their order, each saturated to what a byte holds and clamped.
  struct Clamp {
    __m256i lo, hi, flip;
    bool with_sign;
  };
  static Clamp clamp_of(const Requant &q) {
    const auto byte = [&](std::int32_t v) { return _mm256_set1_epi8(static_cast<char>(v + q.out_zero)); };
    return {byte(q.lo), byte(q.hi), _mm256_set1_epi8(static_cast<char>(q.out_zero)), q.out_zero != 0};
  }
  struct Bytes {
    __m256i half[2];
  };
  static Bytes pack(I a, I b, I c, I d, const Clamp &k) { return {{pack_two(a, b, k), pack_two(c, d, k)}}; }
  // The first `count` bytes of quarter `index` (count <= 16), or of half `index` (count <= 32).
  static void store_quarter(std::uint8_t *p, const Bytes &v, int index, int count) {
    const __m256i h = v.half[index / 2];
    put(p, index % 2 == 0 ? _mm256_castsi256_si128(h) : _mm256_extracti128_si256(h, 1), count);
  }
  static void store_half(std::uint8_t *p, const Bytes &v, int index, int count) { put(p, v.half[index], count); }

 private:
  static __m256i half(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
  static __m128i sixteen_bytes(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
  static __m128i eight_bytes(const void *p) { return _mm_loadl_epi64(static_cast<const __m128i *>(p)); }
  static __m128i part(I v, int i) {
    const __m256i h = i < 2 ? v.low : v.high;
    return i % 2 == 0 ? _mm256_castsi256_si128(h) : _mm256_extracti128_si256(h, 1);
  }

  // The first `bytes` bytes of a vector; all of them are one store.
  template <class V>
  static void put(std::uint8_t *p, const V &v, int bytes) {
    if (bytes == static_cast<int>(sizeof v)) std::memcpy(p, &v, sizeof v);
    else std::memcpy(p, &v, static_cast<std::size_t>(bytes));
  }

  static __m256i pack_two(I a, I b, const Clamp &k) {
    const __m256i aa = _mm256_packs_epi32(a.low, a.high), bb = _mm256_packs_epi32(b.low, b.high);  // a0-3 a8-11, a4-7 a12-15
    const __m256i bytes = k.with_sign ? _mm256_xor_si256(_mm256_packs_epi16(aa, bb), k.flip) : _mm256_packus_epi16(aa, bb);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_min_epu8(_mm256_max_epu8(bytes, k.lo), k.hi), order);
  }

  static __m128i quarter(__m128i acc, __m128i res, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                         const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    const auto four = [](const std::int32_t *p) { return _mm256_cvtepi32_epi64(sixteen_bytes(p)); };
    __m256i v = _mm256_mul_epi32(_mm256_cvtepi32_epi64(acc), four(mult));
    v = _mm256_add_epi64(v, half(offset));
    v = _mm256_add_epi64(v, _mm256_sllv_epi64(_mm256_cvtepi32_epi64(res), four(res_shift)));
    // An arithmetic shift: the sign's bit after a logical one is 2^63 >> shift; (x ^ m) - m spreads it.
    const __m256i count = four(shift), sign = _mm256_srlv_epi64(_mm256_set1_epi64x(INT64_MIN), count);
    v = _mm256_sub_epi64(_mm256_xor_si256(_mm256_srlv_epi64(v, count), sign), sign);
    const __m256i least = _mm256_set1_epi64x(lo), most = _mm256_set1_epi64x(hi);
    v = _mm256_blendv_epi8(v, least, _mm256_cmpgt_epi64(least, v));
    v = _mm256_blendv_epi8(v, most, _mm256_cmpgt_epi64(v, most));
    return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)));
  }
};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
