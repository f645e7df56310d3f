// Kernels of training: each quantiser's forward and backward in one pass. Plain loops that a compiler turns into vectors.
//
// Pointers are contiguous and aligned to their elements; nothing overlaps; no allocation. Results are those of the torch formulas in
// bitshift/nn (ste.py, activations.py, norms.py), bit for bit where an element depends on elements alone; sums over many elements
// are kept in float for a block and in double beyond it, so they differ from torch's in the last bits.
#ifndef BITSHIFT_TRAIN_KERNELS_H
#define BITSHIFT_TRAIN_KERNELS_H

#include <cstddef>
#include <cstdint>

namespace bitshift::train {

// How the elements of an array are stored.
enum class Real : int { f32 = 0, bf16 = 1 };

inline std::size_t size_of(Real real) { return real == Real::f32 ? 4 : 2; }

// ---- activation quantiser: y = clamp(floor(x / step + 1/2), lo, hi) * step; step is a power of two ----

struct Grid {
  float step, inverse, lo, hi;
};

void grid_forward(Real real, const void *x, void *y, std::size_t n, const Grid &grid);

// dx = g where lo <= x / step <= hi (or x is a NaN), else 0. Returns the sum of g * (y - x inside, y outside).
double grid_backward(Real real, const void *g, const void *x, void *dx, std::size_t n, const Grid &grid);

// ---- norm: statistics and maps per channel ----

// Elements of channel c are those at (outer * channels + c) * inner + i: inner 1 is channels-last, outer the samples otherwise.
struct Channels {
  std::size_t outer, channels, inner;
};

// Adds, for the outer indices [begin, end), to first[c] the sum of a and to second[c] the sum of (a - shift) * (b - shift).
// `a` and `b` may be one array: then these are the sums for mean and variance. Shift only the second: `centre_a` false.
void channel_sums(Real real, const void *a, const void *b, const float *shift, bool centre_a, const Channels &shape, std::size_t begin,
                  std::size_t end, double *first, double *second);

// y = (x - mean[c]) * gain[c] + beta[c], each operation rounded.
void channel_map(Real real, const void *x, void *y, const float *mean, const float *gain, const float *beta, const Channels &shape,
                 std::size_t begin, std::size_t end);

// dx = g * a[c] + (x - mean[c]) * b[c] + d[c].
void channel_map_backward(Real real, const void *g, const void *x, void *dx, const float *mean, const float *a, const float *b,
                          const float *d, const Channels &shape, std::size_t begin, std::size_t end);

// ---- weights (channels, inner): `scale` has one entry a channel ----

struct Weights {
  std::size_t channels, inner;
  const float *scale;
};

// Latents (count, channels, inner), count <= 8. pattern: bit 0 is latent 0 >= 0, bit j latent j > 0; weight = values[pattern] * scale.
// With `negative` returns the sum of min(latent 1, 0), which a NaN makes a NaN; else 0.
double gate_forward(Real real, const void *latents, int count, const Weights &shape, const float *values, bool negative, float *weight,
                    std::uint8_t *pattern, std::size_t begin, std::size_t end);

// out[j] = slopes[j][pattern] * (g * scale); slopes (count, 2^count). `push` is added to out[1] where latent 1 is < 0; `latents` are read
// only for that.
void gate_backward(Real real, const float *g, const std::uint8_t *pattern, int count, const Weights &shape, const float *slopes,
                   const void *latents, float push, void *out, std::size_t begin, std::size_t end);

// A rising list of levels and the thresholds between them; v takes the level behind the last threshold <= v (a NaN the largest).
struct Levels {
  const float *levels, *thresholds;
  int count;    // of levels; 0: the whole numbers up to `top`, by floor(v + 1/2)
  float top;    // largest |level|
};

// weight = level(latent / scale) * scale.
void level_forward(Real real, const void *latent, const Weights &shape, const Levels &levels, float *weight, std::size_t begin,
                   std::size_t end);

// out = g where |latent / scale| <= top, else g * 0. With `sums` (one a channel) adds the sum of g * (level - v inside, level outside).
void level_backward(Real real, const float *g, const void *latent, const Weights &shape, const Levels &levels, void *out, double *sums,
                    std::size_t begin, std::size_t end);

// weight = +-2^round(log2 |latent|) within low .. high, which take the place of `scale`: one each a channel.
void power_forward(Real real, const void *latent, std::size_t inner, const float *low, const float *high, float *weight,
                   std::size_t begin, std::size_t end);

// weight = sign(round(sign)) * 2^(round(shift) within low .. 0 + top[c]); top: an exponent a channel. With `squares` returns the sum of
// (2^(shift + top[c]))^2, else 0; powers within 2e-7 for |shift| < 126.
double shift_sign_forward(Real real, const void *shift, const void *sign, std::size_t inner, const std::int32_t *top, int low,
                          bool squares, float *weight, std::size_t begin, std::size_t end);

// d_shift = g * weight * ln 2 + push * (2^shift * scale)^2; d_sign = g * scale. `shift` is read only where push is not 0.
void shift_sign_backward(Real real, const float *g, const float *weight, const void *shift, const Weights &shape, float push, void *d_shift,
                         void *d_sign, std::size_t begin, std::size_t end);

// ---- SGD on bfloat16 ----

struct Rate {
  float lr, momentum, decay;
  bool nesterov;
};

// step = g + p * decay; with momentum m = m * momentum + step, and step becomes m (nesterov: step + m * momentum); p -= step * lr.
// Sums are floats, m and p are rounded up or down at random with the right mean. The noise is a function of `key` and the place alone,
// so that any number of threads and processes gives the same bits. All bfloat16; `m` may be null; fewer than 2^32 elements.
void rounded_sgd(const void *g, void *p, void *m, const Rate &rate, std::uint32_t key, std::size_t begin, std::size_t end);

}  // namespace bitshift::train
#endif
