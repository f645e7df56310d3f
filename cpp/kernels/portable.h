/* The portable kernels: one C99 function an op, on raw pointers.
 *
 * Contract of every function here
 *  - No allocation, no global state, no libc beyond stdint, stddef and string.h. Buffers never overlap unless said so.
 *  - Pointers are aligned to their element size, nothing more. Shapes are per sample, channels first.
 *  - Integer inputs lie in the range of their type, and the caller has proved (core.bounds, cpp/src/bounds.cpp) that no
 *    accumulator leaves int32 and no value before the shift leaves int64. Within that proof nothing overflows.
 *  - A negative number is never shifted left (it is multiplied by a power of two); shifting one right is arithmetic on
 *    every compiler we accept, which portable.c checks when it is compiled.
 */
#ifndef BITSHIFT_KERNELS_PORTABLE_H
#define BITSHIFT_KERNELS_PORTABLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Storage of a value. The numbers are those of bs_dtype in bitshift.h. */
typedef enum { BSK_U8 = 0, BSK_I8 = 1, BSK_I16 = 2, BSK_I32 = 3, BSK_F32 = 4 } bsk_dtype;

/* What a dot product multiplies: int16 x int16, int32 x int32 (both into int32), or float. */
typedef enum { BSK_DOT_I16 = 0, BSK_DOT_I32 = 1, BSK_DOT_F32 = 2 } bsk_dot;

size_t bsk_dtype_size(bsk_dtype dtype);
size_t bsk_dot_size(bsk_dot kind);

/* Rows of weights and of gathered inputs are padded with zeros to a multiple of this many elements. */
#define BSK_ROW_ALIGN 16
size_t bsk_row_stride(size_t k);

/* ---- rule 4 ---------------------------------------------------------------------------------------------------- */

/* out = clamp((acc*mult[c] + offset[c] + (residual << res_shift[c])) >> shift[c], lo, hi); every array has one entry a
 * channel. narrow: |acc*mult| + |offset| + |residual << res_shift| is under 2^31 for every channel, so 32 bits do. */
typedef struct {
  const int32_t *mult;
  const int64_t *offset;
  const uint8_t *shift;
  const uint8_t *res_shift; /* NULL without a residual */
  int32_t lo, hi;
  int narrow;
} bsk_requant;

/* ---- convolution and matrix product ---------------------------------------------------------------------------- */

/* A 2-d convolution of one sample; a 1-d one has height 1. The padding behind follows from the output's size. */
typedef struct {
  int64_t in_c, in_h, in_w;
  int64_t out_c, out_h, out_w;
  int64_t groups, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
} bsk_conv;

/* Bytes of scratch memory that bsk_conv_int / bsk_conv_f32 need; 64-byte alignment wanted. */
size_t bsk_conv_scratch(const bsk_conv *p, bsk_dot kind);

/* Whether this convolution runs channel by channel (one input channel a group). Decides the layout of the weights:
 * false: [out_c][row_stride(K)], K ordered (kernel_h, kernel_w, channel); true: [out_c][kernel_h*kernel_w], int32/float. */
int bsk_conv_is_depthwise(const bsk_conv *p);

/* x (in_c, in_h, in_w) of dtype in; weights as above, of kind (BSK_DOT_I32 if depthwise); residual like out or NULL. */
void bsk_conv_int(const bsk_conv *p, bsk_dot kind, const void *x, bsk_dtype in, const void *weights, const bsk_requant *q,
                  const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch);
/* y = (sum x*w) * scale[c] + bias[c] */
void bsk_conv_f32(const bsk_conv *p, const float *x, const float *weights, const float *scale, const float *bias, float *out,
                  void *scratch);

/* x (rows, in_f) -> out (rows, out_f); weights [out_f][row_stride(in_f)]. */
size_t bsk_linear_scratch(int64_t rows, int64_t in_f, int64_t out_f, bsk_dot kind);
void bsk_linear_int(int64_t rows, int64_t in_f, int64_t out_f, bsk_dot kind, const void *x, bsk_dtype in, const void *weights,
                    const bsk_requant *q, const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch);
void bsk_linear_f32(int64_t rows, int64_t in_f, int64_t out_f, const float *x, const float *weights, const float *scale,
                    const float *bias, float *out, void *scratch);

/* ---- elementwise, integer -------------------------------------------------------------------------------------- */

/* s = a*2^shift_a + b*2^shift_b (b may be NULL); out = clamp((s + half(down)) >> down, lo, hi). down <= 62. */
typedef struct {
  int shift_a, shift_b, down;
  int32_t lo, hi;
} bsk_add;
void bsk_add_int(const bsk_add *p, const void *a, bsk_dtype type_a, const void *b, bsk_dtype type_b, void *out,
                 bsk_dtype out_type, size_t n);
/* out = clamp((x*mult + offset) >> shift, lo, hi) over n elements of one channel. */
void bsk_rescale_int(int32_t mult, int64_t offset, int shift, int32_t lo, int32_t hi, const void *x, bsk_dtype in, void *out,
                     bsk_dtype out_type, size_t n);
void bsk_clamp_int(int32_t lo, int32_t hi, const void *x, void *out, bsk_dtype dtype, size_t n);
/* out[i] = table[x[i] - lo]; x is u8 or i8, entries of item bytes. Every x[i] - lo is inside the table. */
void bsk_table(const void *x, bsk_dtype in, int32_t lo, const void *table, void *out, size_t item, size_t n);
/* Whether lo <= x[i] <= hi for all i: what a caller's input must satisfy before any other kernel sees it. */
int bsk_in_range(const void *x, bsk_dtype dtype, int32_t lo, int32_t hi, size_t n);

/* ---- elementwise, float ---------------------------------------------------------------------------------------- */

void bsk_add_f32(const float *a, const float *b, float *out, size_t n);
/* out may be x. */
void bsk_affine_f32(float scale, float bias, const float *x, float *out, size_t n);
/* Open ends are infinities; NaN passes. */
void bsk_clamp_f32(float lo, float hi, const float *x, float *out, size_t n);
/* out = clamp(floor(x * factor + half)) in double; factor = 2^frac, half = 0.5 or 0. NaN gives 0. */
void bsk_quantize(double factor, double half, int32_t lo, int32_t hi, const float *x, void *out, bsk_dtype out_type, size_t n);
/* out = x * factor, rounded once; factor = 2^-frac. */
void bsk_dequantize(double factor, const void *x, bsk_dtype in, float *out, size_t n);

/* ---- pooling, argmax ------------------------------------------------------------------------------------------- */

typedef struct {
  int64_t channels, in_h, in_w, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
} bsk_pool;
/* empty: what a window gives that lies wholly in the padding (the type's smallest value). */
void bsk_max_pool(const bsk_pool *p, const void *x, void *out, bsk_dtype dtype, int32_t empty);
void bsk_avg_pool_int(const bsk_pool *p, int32_t mult, int64_t offset, int shift, int32_t lo, int32_t hi, const void *x,
                      bsk_dtype in, void *out, bsk_dtype out_type);
void bsk_avg_pool_f32(const bsk_pool *p, float scale, const float *x, float *out);
/* Index of the first largest of each row of n; the first NaN is largest. */
void bsk_argmax(const void *x, bsk_dtype in, int32_t *out, size_t rows, size_t n);

/* ---- moving elements ------------------------------------------------------------------------------------------- */

#define BSK_MAX_AXES 6
/* dst[sum i_k*dst_stride[k]] = src[sum i_k*src_stride[k]] for all 0 <= i_k < shape[k]; strides in elements of item bytes. */
void bsk_copy_strided(int axes, const int64_t *shape, const void *src, const int64_t *src_stride, void *dst,
                      const int64_t *dst_stride, size_t item);
/* n elements of item bytes, all equal to the one at value. */
void bsk_fill(void *out, const void *value, size_t item, size_t n);

#ifdef __cplusplus
}
#endif
#endif
