/* The border of the integer world: floats that a caller holds to stored integers and back.
 *
 * Like portable.h: no allocation, no libc beyond stdint and string.h. Arrays are contiguous and aligned to their elements. */
#ifndef BITSHIFT_KERNELS_BORDER_H
#define BITSHIFT_KERNELS_BORDER_H

#include "portable.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = clamp(floor(x * factor + 1/2), lo, hi) in double; NaN gives 0. factor is a power of two, lo <= 0 <= hi. */
void bsk_border_quantize_f32(double factor, int32_t lo, int32_t hi, const float *x, void *out, bsk_dtype out_type, size_t n);
void bsk_border_quantize_f64(double factor, int32_t lo, int32_t hi, const double *x, void *out, bsk_dtype out_type, size_t n);

/* out = clamp(floor(x * factor + half), lo, hi) / factor; NaN gives 0. factor is a power of two from 2^-63 to 2^63. */
void bsk_border_round_f32(double factor, double half, int32_t lo, int32_t hi, const float *x, float *out, size_t n);
void bsk_border_round_f64(double factor, double half, int32_t lo, int32_t hi, const double *x, float *out, size_t n);

/* 1 if every x * factor is an integer of at most BSK_GRID in magnitude; then the smallest and the largest are in *lo and *hi
 * (0 and 0 for no elements). Else 0. factor is a power of two from 2^-63 to 2^63. */
enum { BSK_GRID = 1024 };
int bsk_border_grid_f32(double factor, const float *x, size_t n, int32_t *lo, int32_t *hi);
int bsk_border_grid_f64(double factor, const double *x, size_t n, int32_t *lo, int32_t *hi);

/* out = x * mult + offset in double, rounded after each operation; _f32 then rounds the sum to float. */
void bsk_border_scale_f64(double mult, double offset, const int32_t *x, double *out, size_t n);
void bsk_border_scale_f32(double mult, double offset, const int32_t *x, float *out, size_t n);
/* The same with an entry of mult and offset for each of n elements of a row. */
void bsk_border_scale_row_f64(const double *mult, const double *offset, const int32_t *x, double *out, size_t n);
void bsk_border_scale_row_f32(const double *mult, const double *offset, const int32_t *x, float *out, size_t n);

#ifdef __cplusplus
}
#endif
#endif
