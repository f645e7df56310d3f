/* Dot products of padded rows, written so that the compiler vectorises them (int16: one multiply-add instruction for two
 * products). The engine bounds the sum of the absolute products, so a partial sum in any order fits its int32.
 *
 * This file alone is compiled with permission to reorder float sums (see CMakeLists.txt): rule 7 allows any order. */
#include "internal.h"

/* A 4 x 2 block shares 6 loads between 8 products; the tails are 4 x 1 and 1 x 1. stride is a multiple of BSK_ROW_ALIGN, so
 * the vector loop has no remainder. */
#define BSK_DEFINE_GEMM(NAME, T, ACC)                                                                                   \
  BSK_INLINE void NAME##_4x2(const T *x, const T *w, size_t stride, ACC *acc, size_t acc_w, size_t acc_x) {             \
    const T *x1 = x + stride, *w1 = w + stride, *w2 = w + 2 * stride, *w3 = w + 3 * stride;                             \
    ACC a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;                                                 \
    const size_t k = stride & ~(size_t)(BSK_ROW_ALIGN - 1);                                                             \
    size_t i;                                                                                                           \
    for (i = 0; i < k; i++) {                                                                                           \
      const ACC u = x[i], v = x1[i];                                                                                    \
      a0 += u * w[i];                                                                                                   \
      a1 += u * w1[i];                                                                                                  \
      a2 += u * w2[i];                                                                                                  \
      a3 += u * w3[i];                                                                                                  \
      b0 += v * w[i];                                                                                                   \
      b1 += v * w1[i];                                                                                                  \
      b2 += v * w2[i];                                                                                                  \
      b3 += v * w3[i];                                                                                                  \
    }                                                                                                                   \
    acc[0] = a0;                                                                                                        \
    acc[acc_w] = a1;                                                                                                    \
    acc[2 * acc_w] = a2;                                                                                                \
    acc[3 * acc_w] = a3;                                                                                                \
    acc[acc_x] = b0;                                                                                                    \
    acc[acc_w + acc_x] = b1;                                                                                            \
    acc[2 * acc_w + acc_x] = b2;                                                                                        \
    acc[3 * acc_w + acc_x] = b3;                                                                                        \
  }                                                                                                                     \
  BSK_INLINE void NAME##_4x1(const T *x, const T *w, size_t stride, ACC *acc, size_t acc_w) {                           \
    const T *w1 = w + stride, *w2 = w + 2 * stride, *w3 = w + 3 * stride;                                               \
    ACC a0 = 0, a1 = 0, a2 = 0, a3 = 0;                                                                                 \
    const size_t k = stride & ~(size_t)(BSK_ROW_ALIGN - 1);                                                             \
    size_t i;                                                                                                           \
    for (i = 0; i < k; i++) {                                                                                           \
      const ACC u = x[i];                                                                                               \
      a0 += u * w[i];                                                                                                   \
      a1 += u * w1[i];                                                                                                  \
      a2 += u * w2[i];                                                                                                  \
      a3 += u * w3[i];                                                                                                  \
    }                                                                                                                   \
    acc[0] = a0;                                                                                                        \
    acc[acc_w] = a1;                                                                                                    \
    acc[2 * acc_w] = a2;                                                                                                \
    acc[3 * acc_w] = a3;                                                                                                \
  }                                                                                                                     \
  BSK_INLINE ACC NAME##_1x1(const T *x, const T *w, size_t stride) {                                                    \
    const size_t k = stride & ~(size_t)(BSK_ROW_ALIGN - 1);                                                             \
    ACC a = 0;                                                                                                          \
    size_t i;                                                                                                           \
    for (i = 0; i < k; i++) a += (ACC)x[i] * w[i];                                                                      \
    return a;                                                                                                           \
  }                                                                                                                     \
  BSK_CLONES void NAME(const T *x, size_t rows_x, const T *w, size_t rows_w, size_t stride, ACC *acc, size_t acc_w,     \
                       size_t acc_x) {                                                                                  \
    size_t o = 0, p;                                                                                                    \
    for (; o + 4 <= rows_w; o += 4) {                                                                                   \
      for (p = 0; p + 2 <= rows_x; p += 2)                                                                              \
        NAME##_4x2(x + p * stride, w + o * stride, stride, acc + o * acc_w + p * acc_x, acc_w, acc_x);                  \
      if (p < rows_x) NAME##_4x1(x + p * stride, w + o * stride, stride, acc + o * acc_w + p * acc_x, acc_w);           \
    }                                                                                                                   \
    for (; o < rows_w; o++)                                                                                             \
      for (p = 0; p < rows_x; p++) acc[o * acc_w + p * acc_x] = NAME##_1x1(x + p * stride, w + o * stride, stride);     \
  }

BSK_DEFINE_GEMM(bsk_gemm_i16, int16_t, int32_t)
BSK_DEFINE_GEMM(bsk_gemm_i32, int32_t, int32_t)
BSK_DEFINE_GEMM(bsk_gemm_f32, float, float)
