/* Transposed convolution by adding into the output: the plain way, for every geometry. */
#include "transposed.h"

#include "internal.h"

static size_t align64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static size_t volume(const int64_t *sizes) { return (size_t)(sizes[0] * sizes[1] * sizes[2]); }

size_t bsk_transposed_scratch(const bsk_transposed *p) {
  return align64((size_t)p->in_c * volume(p->in) * 4) + align64(volume(p->out) * 4);
}

/* acc += one input channel times one kernel. Both types are 4 bytes. */
#define BSK_DEFINE_TRANSPOSED(NAME, T)                                                                        \
  BSK_CLONES static void NAME(const bsk_transposed *p, const T *x, const T *w, T *acc) {                      \
    int64_t k0, k1, k2, q0, q1, q2, lo[3], hi[3];                                                             \
    const int64_t s2 = p->stride[2];                                                                          \
    for (k0 = 0; k0 < p->kernel[0]; k0++) {                                                                   \
      const int64_t at0 = k0 * p->dilation[0] - p->before[0];                                                 \
      bsk_valid_range(p->in[0], p->out[0], p->stride[0], at0, &lo[0], &hi[0]);                                \
      for (k1 = 0; k1 < p->kernel[1]; k1++) {                                                                 \
        const int64_t at1 = k1 * p->dilation[1] - p->before[1];                                               \
        bsk_valid_range(p->in[1], p->out[1], p->stride[1], at1, &lo[1], &hi[1]);                              \
        for (k2 = 0; k2 < p->kernel[2]; k2++) {                                                               \
          const int64_t at2 = k2 * p->dilation[2] - p->before[2];                                             \
          const T weight = *w++;                                                                              \
          bsk_valid_range(p->in[2], p->out[2], s2, at2, &lo[2], &hi[2]);                                      \
          for (q0 = lo[0]; q0 < hi[0]; q0++) {                                                                \
            for (q1 = lo[1]; q1 < hi[1]; q1++) {                                                              \
              const T *row = x + (q0 * p->in[1] + q1) * p->in[2];                                             \
              T *sums = acc + ((q0 * p->stride[0] + at0) * p->out[1] + q1 * p->stride[1] + at1) * p->out[2];  \
              for (q2 = lo[2]; q2 < hi[2]; q2++) sums[q2 * s2 + at2] += row[q2] * weight;                     \
            }                                                                                                 \
          }                                                                                                   \
        }                                                                                                     \
      }                                                                                                       \
    }                                                                                                         \
  }
BSK_DEFINE_TRANSPOSED(add_i32, int32_t)
BSK_DEFINE_TRANSPOSED(add_f32, float)

void bsk_transposed_int(const bsk_transposed *p, const void *x, bsk_dtype in, const int32_t *weights, const bsk_requant *q,
                        const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch) {
  const size_t in_size = volume(p->in), out_size = volume(p->out), taps = volume(p->kernel);
  const int64_t per_in = p->in_c / p->groups, per_out = p->out_c / p->groups;
  int32_t *const values = scratch;
  int32_t *const acc = (int32_t *)(void *)((uint8_t *)scratch + align64((size_t)p->in_c * in_size * 4));
  int64_t o, i;
  bsk_load(values, x, in, 0, (size_t)p->in_c * in_size);
  for (o = 0; o < p->out_c; o++) {
    const int32_t *first = values + (size_t)(o / per_out * per_in) * in_size;
    memset(acc, 0, out_size * 4);
    for (i = 0; i < per_in; i++) add_i32(p, first + (size_t)i * in_size, weights + (size_t)(o * per_in + i) * taps, acc);
    bsk_requant_row(q, (size_t)o, acc, out_size, residual, res, (size_t)o * out_size, out, out_type, (size_t)o * out_size);
  }
}

void bsk_transposed_f32(const bsk_transposed *p, const float *x, const float *weights, const float *scale, const float *bias,
                        float *out) {
  const size_t in_size = volume(p->in), out_size = volume(p->out), taps = volume(p->kernel);
  const int64_t per_in = p->in_c / p->groups, per_out = p->out_c / p->groups;
  int64_t o, i;
  for (o = 0; o < p->out_c; o++) {
    const float *first = x + (size_t)(o / per_out * per_in) * in_size;
    float *const sums = out + (size_t)o * out_size;
    memset(sums, 0, out_size * 4);
    for (i = 0; i < per_in; i++) add_f32(p, first + (size_t)i * in_size, weights + (size_t)(o * per_in + i) * taps, sums);
    bsk_affine_f32(scale[o], bias[o], sums, sums, out_size);
  }
}
