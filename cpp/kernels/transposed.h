/* A transposed convolution: every input adds its multiple of the kernel to the output. The contract of portable.h holds. */
#ifndef BITSHIFT_KERNELS_TRANSPOSED_H
#define BITSHIFT_KERNELS_TRANSPOSED_H

#include "portable.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One sample; axes that are missing have size and kernel 1. before: how many outputs are cropped in front. */
typedef struct {
  int64_t in_c, out_c, groups;
  int64_t in[3], out[3], kernel[3], stride[3], dilation[3], before[3];
} bsk_transposed;

/* Bytes of scratch memory; 64-byte alignment wanted. */
size_t bsk_transposed_scratch(const bsk_transposed *p);

/* out[o,q*stride - before + k*dilation] += x[i,q] * weights[o,i,k], then rule 4. x (in_c, *in) of dtype in; weights
 * (out_c, in_c/groups, *kernel); residual like out or NULL. */
void bsk_transposed_int(const bsk_transposed *p, const void *x, bsk_dtype in, const int32_t *weights, const bsk_requant *q,
                        const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch);
/* y = (sum x*w) * scale[c] + bias[c] */
void bsk_transposed_f32(const bsk_transposed *p, const float *x, const float *weights, const float *scale, const float *bias,
                        float *out);

#ifdef __cplusplus
}
#endif
#endif
