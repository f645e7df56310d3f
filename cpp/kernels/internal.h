/* What the kernel files share: instruction set clones, arithmetic shift, loading and storing any integer type. */
#ifndef BITSHIFT_KERNELS_INTERNAL_H
#define BITSHIFT_KERNELS_INTERNAL_H

#include <string.h>

#include "portable.h"

/* On x86-64 gcc with glibc a marked function is compiled twice, for any processor and for AVX2 with FMA, and chosen by the
 * loader (ifunc). A clone for AVX-512 was measured: no faster on Zen 4, whose 64-byte loads from 32-byte rows split.
 * BSK_NO_CLONES switches that off: sanitizers start before ifunc resolvers may run. */
#if !defined(BSK_NO_CLONES) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && \
    defined(__gnu_linux__) && defined(__GLIBC__)
#define BSK_CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#define BSK_INLINE static inline __attribute__((always_inline))
#elif defined(__GNUC__)
#define BSK_CLONES
#define BSK_INLINE static inline __attribute__((always_inline))
#else
#define BSK_CLONES
#define BSK_INLINE static inline
#endif

/* Fails to compile where shifting a negative number right is not arithmetic. */
typedef char bsk_needs_arithmetic_shift[(-3 >> 1) == -2 ? 1 : -1];

/* Values pass between types in blocks of this many, on the stack. */
enum { BSK_CHUNK = 256 };

/* v >> s, arithmetic, 0 <= s <= 63, written with an unsigned shift because AVX2 has no signed one for 64 bits:
 * adding 2^63 makes the number unsigned, and floor((v + 2^63) / 2^s) - 2^(63-s) = floor(v / 2^s). */
BSK_INLINE int64_t bsk_asr64(int64_t v, int s) {
  const uint64_t half = (uint64_t)1 << 63;
  return (int64_t)((((uint64_t)v + half) >> s) - (half >> s));
}

BSK_INLINE int32_t bsk_clamp_i64(int64_t v, int32_t lo, int32_t hi) { return (int32_t)(v < lo ? lo : v > hi ? hi : v); }

BSK_INLINE int32_t bsk_clamp_i32(int32_t v, int32_t lo, int32_t hi) { return v < lo ? lo : v > hi ? hi : v; }

/* dst[0..n) = src[at..at+n) */
BSK_INLINE void bsk_load(int32_t *dst, const void *src, bsk_dtype dtype, size_t at, size_t n) {
  size_t i;
  switch (dtype) {
    case BSK_U8: {
      const uint8_t *s = (const uint8_t *)src + at;
      for (i = 0; i < n; i++) dst[i] = s[i];
      break;
    }
    case BSK_I8: {
      const int8_t *s = (const int8_t *)src + at;
      for (i = 0; i < n; i++) dst[i] = s[i];
      break;
    }
    case BSK_I16: {
      const int16_t *s = (const int16_t *)src + at;
      for (i = 0; i < n; i++) dst[i] = s[i];
      break;
    }
    default: memcpy(dst, (const int32_t *)src + at, n * sizeof(int32_t));
  }
}

/* dst[at..at+n) = src[0..n); the caller has clamped src to the type. */
BSK_INLINE void bsk_store(void *dst, bsk_dtype dtype, size_t at, const int32_t *src, size_t n) {
  size_t i;
  switch (dtype) {
    case BSK_U8: {
      uint8_t *d = (uint8_t *)dst + at;
      for (i = 0; i < n; i++) d[i] = (uint8_t)src[i];
      break;
    }
    case BSK_I8: {
      int8_t *d = (int8_t *)dst + at;
      for (i = 0; i < n; i++) d[i] = (int8_t)src[i];
      break;
    }
    case BSK_I16: {
      int16_t *d = (int16_t *)dst + at;
      for (i = 0; i < n; i++) d[i] = (int16_t)src[i];
      break;
    }
    default: memcpy((int32_t *)dst + at, src, n * sizeof(int32_t));
  }
}

/* The outputs lo..hi-1 for which 0 <= i*stride + at < in, of 0..out-1. All arguments are under 2^31 except |at| < 2^62. */
BSK_INLINE void bsk_valid_range(int64_t out, int64_t in, int64_t stride, int64_t at, int64_t *lo, int64_t *hi) {
  int64_t first = at >= 0 ? 0 : (-at + stride - 1) / stride;
  int64_t last = at >= in ? 0 : (in - 1 - at) / stride + 1;
  *hi = last < out ? last : out;
  *lo = first < *hi ? first : *hi;
}

/* acc[o*acc_w + p*acc_x] = sum_i w[o][i] * x[p][i]; rows are stride elements apart and stride long. */
void bsk_gemm_i16(const int16_t *x, size_t rows_x, const int16_t *w, size_t rows_w, size_t stride, int32_t *acc, size_t acc_w,
                  size_t acc_x);
void bsk_gemm_i32(const int32_t *x, size_t rows_x, const int32_t *w, size_t rows_w, size_t stride, int32_t *acc, size_t acc_w,
                  size_t acc_x);
void bsk_gemm_f32(const float *x, size_t rows_x, const float *w, size_t rows_w, size_t stride, float *acc, size_t acc_w,
                  size_t acc_x);

/* Rule 4 for n values of channel c; res_at and out_at are element positions. residual may be NULL. */
void bsk_requant_row(const bsk_requant *q, size_t c, const int32_t *acc, size_t n, const void *residual, bsk_dtype res,
                     size_t res_at, void *out, bsk_dtype out_type, size_t out_at);
/* Rule 4 for one value of each of n channels. */
void bsk_requant_channels(const bsk_requant *q, const int32_t *acc, size_t n, const void *residual, bsk_dtype res,
                          size_t res_at, void *out, bsk_dtype out_type, size_t out_at);

#endif
