// From latents to weights and back.
#include "vector.h"

namespace bitshift::train {
namespace {

constexpr std::size_t kBlock = 1024;
constexpr std::size_t kLanes = 16;
constexpr float kLn2 = 0.6931471805599453f;

// Calls part(first, count, channel) for the pieces of [begin, end) that lie in one channel and are at most kBlock long.
template <class F>
BSK_INLINE void pieces(std::size_t inner, std::size_t begin, std::size_t end, F part) {
  for (std::size_t at = begin; at < end;) {
    const std::size_t channel = at / inner, edge = (channel + 1) * inner;
    const std::size_t left = (edge < end ? edge : end) - at, count = left < kBlock ? left : kBlock;
    part(at, count, channel);
    at += count;
  }
}

// The sum of value(0) .. value(n - 1), n <= kBlock, in float lanes.
template <class F>
BSK_INLINE double sum_of(std::size_t n, F value) {
  float lanes[kLanes] = {0};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (std::size_t j = 0; j < kLanes; j++) lanes[j] += value(i + j);
  double total = 0;
  for (; i < n; i++) total += value(i);
  for (std::size_t j = 0; j < kLanes; j++) total += lanes[j];
  return total;
}

template <class T>
BSK_INLINE double gates(const T *latents, int count, const Weights &shape, const float *values, bool negative, float *weight,
                        std::uint8_t *pattern, std::size_t begin, std::size_t end) {
  const std::size_t size = shape.channels * shape.inner;
  double total = 0;
  pieces(shape.inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    std::int32_t index[kBlock];
    const T *first = latents + at;
    for (std::size_t i = 0; i < n; i++) index[i] = load(first + i) >= 0.0f;
    for (int j = 1; j < count; j++) {
      const T *gate = first + static_cast<std::size_t>(j) * size;
      const std::int32_t bit = 1 << j;
      for (std::size_t i = 0; i < n; i++) index[i] |= load(gate + i) > 0.0f ? bit : 0;
    }
    for (std::size_t i = 0; i < n; i++) pattern[at + i] = static_cast<std::uint8_t>(index[i]);
    const float scale = shape.scale[channel];
    for (std::size_t i = 0; i < n; i++) weight[at + i] = values[index[i]] * scale;
    if (negative) total += sum_of(n, [&](std::size_t i) __attribute__((always_inline)) {
      const float v = load(first + size + i);
      return v > 0.0f ? 0.0f : v;
    });
  });
  return total;
}

template <class T>
BSK_INLINE void gates_back(const float *g, const std::uint8_t *pattern, int count, const Weights &shape, const float *slopes,
                           const T *latents, float push, T *out, std::size_t begin, std::size_t end) {
  const std::size_t size = shape.channels * shape.inner;
  pieces(shape.inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    std::int32_t index[kBlock];
    float scaled[kBlock];
    const float scale = shape.scale[channel];
    for (std::size_t i = 0; i < n; i++) index[i] = pattern[at + i];
    for (std::size_t i = 0; i < n; i++) scaled[i] = g[at + i] * scale;
    for (int j = 0; j < count; j++) {
      const float *table = slopes + (static_cast<std::size_t>(j) << count);
      T *to = out + static_cast<std::size_t>(j) * size + at;
      if (j == 1 && push != 0.0f)
        for (std::size_t i = 0; i < n; i++) {
          // a mask, not a branch: the signs are random
          const std::uint32_t mask = 0u - static_cast<std::uint32_t>(load(latents + size + at + i) < 0.0f);
          store(to + i, table[index[i]] * scaled[i] + float_of(bits_of(push) & mask));
        }
      else
        for (std::size_t i = 0; i < n; i++) store(to + i, table[index[i]] * scaled[i]);
    }
  });
}

// The level of each of v[0..n). Levels are whole numbers, so that adding up their steps is exact.
BSK_INLINE void find_levels(const float *v, float *level, std::size_t n, const Levels &levels) {
  if (levels.count == 0) {
    for (std::size_t i = 0; i < n; i++) {
      float whole = std::floor(v[i] + 0.5f);
      whole = whole < -levels.top ? -levels.top : whole;
      level[i] = whole > levels.top ? levels.top : whole;
    }
    return;
  }
  for (std::size_t i = 0; i < n; i++) level[i] = levels.levels[0];
  for (int j = 1; j < levels.count; j++) {
    const float step = levels.levels[j] - levels.levels[j - 1], threshold = levels.thresholds[j - 1];
    for (std::size_t i = 0; i < n; i++) level[i] += threshold > v[i] ? 0.0f : step;
  }
}

constexpr std::size_t kSmall = 256;  // values and levels of a piece stay in the first cache

template <class T>
BSK_INLINE void levels_of(const T *latent, const Weights &shape, const Levels &levels, float *weight, std::size_t begin, std::size_t end) {
  pieces(shape.inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    const float scale = shape.scale[channel];
    float v[kSmall], level[kSmall];
    for (std::size_t s = 0; s < n; s += kSmall) {
      const std::size_t m = n - s < kSmall ? n - s : kSmall;
      for (std::size_t i = 0; i < m; i++) v[i] = load(latent + at + s + i) / scale;
      find_levels(v, level, m, levels);
      for (std::size_t i = 0; i < m; i++) weight[at + s + i] = level[i] * scale;
    }
  });
}

template <class T>
BSK_INLINE void levels_back(const float *g, const T *latent, const Weights &shape, const Levels &levels, T *out, double *sums,
                            std::size_t begin, std::size_t end) {
  pieces(shape.inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    const float scale = shape.scale[channel], top = levels.top;
    float v[kSmall], level[kSmall];
    for (std::size_t s = 0; s < n; s += kSmall) {
      const std::size_t m = n - s < kSmall ? n - s : kSmall;
      const float *slope = g + at + s;
      for (std::size_t i = 0; i < m; i++) v[i] = load(latent + at + s + i) / scale;
      for (std::size_t i = 0; i < m; i++) store(out + at + s + i, slope[i] * (std::fabs(v[i]) <= top ? 1.0f : 0.0f));
      if (!sums) continue;
      find_levels(v, level, m, levels);
      for (std::size_t i = 0; i < m; i++) level[i] = slope[i] * (level[i] - (std::fabs(v[i]) <= top ? v[i] : 0.0f));
      sums[channel] += sum_of(m, [&](std::size_t i) __attribute__((always_inline)) { return level[i]; });
    }
  });
}

template <class T>
BSK_INLINE void powers(const T *latent, std::size_t inner, const float *low, const float *high, float *weight, std::size_t begin,
                       std::size_t end) {
  pieces(inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    const float least = low[channel], most = high[channel];
    for (std::size_t i = at; i < at + n; i++) {
      const float x = load(latent + i);
      float size = std::fabs(x);
      size = size < least ? least : size;
      size = size > most ? most : size;
      // Added to the bits, this carries into the exponent exactly if the mantissa is above sqrt(2).
      const std::uint32_t rounded = (bits_of(size) + (0x800000u - 0x3504F4u)) & 0x7F800000u;
      weight[i] = float_of(rounded | (bits_of(x) & 0x80000000u));
    }
  });
}

// Half to even, for |v| < 2^22; others are clamped away behind it.
BSK_INLINE float to_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

// 2^v to 2e-7 for |v| < 126: a power of two times a polynomial for 2^f, |f| <= 1/2.
BSK_INLINE float power_of_two(float v) {
  const float whole = to_even(v), f = v - whole;
  float y = 1.5403530e-4f;
  y = y * f + 1.3333558e-3f;
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 2.4022651e-1f;
  y = y * f + 6.9314718e-1f;
  y = y * f + 1.0f;
  return y * float_of(static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) + 127) << 23);
}

template <class T>
BSK_INLINE double shift_sign(const T *shift, const T *sign, std::size_t inner, const std::int32_t *top, int low, bool squares,
                             float *weight, std::size_t begin, std::size_t end) {
  const float least = static_cast<float>(low);
  double total = 0;
  pieces(inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    const std::int32_t offset = top[channel] + 127;
    for (std::size_t i = at; i < at + n; i++) {
      float p = load(shift + i);
      p = p < least - 1.0f ? least - 1.0f : p;
      p = p > 1.0f ? 1.0f : p;
      p = to_even(p);
      p = p < least ? least : p;
      p = p > 0.0f ? 0.0f : p;
      const float power = float_of(static_cast<std::uint32_t>(static_cast<std::int32_t>(p) + offset) << 23), s = load(sign + i);
      const float trit = (s > 0.5f ? 1.0f : 0.0f) - (s < -0.5f ? 1.0f : 0.0f);
      weight[i] = power * trit;
    }
    const float scale = float_of(static_cast<std::uint32_t>(offset) << 23);
    if (squares) total += sum_of(n, [&](std::size_t i) __attribute__((always_inline)) {
      const float power = power_of_two(load(shift + at + i)) * scale;
      return power * power;
    });
  });
  return total;
}

template <class T>
BSK_INLINE void shift_sign_back(const float *g, const float *weight, const T *shift, const Weights &shape, float push, T *d_shift,
                                T *d_sign, std::size_t begin, std::size_t end) {
  pieces(shape.inner, begin, end, [&](std::size_t at, std::size_t n, std::size_t channel) __attribute__((always_inline)) {
    const float scale = shape.scale[channel];
    if (push == 0.0f) {
      for (std::size_t i = at; i < at + n; i++) {
        store(d_shift + i, g[i] * weight[i] * kLn2);
        store(d_sign + i, g[i] * scale);
      }
      return;
    }
    for (std::size_t i = at; i < at + n; i++) {
      const float power = power_of_two(load(shift + i)) * scale;
      store(d_shift + i, g[i] * weight[i] * kLn2 + push * (power * power));
      store(d_sign + i, g[i] * scale);
    }
  });
}

#define CLONES(T, NAME)                                                                                                               \
  BSK_CLONES double gates_##NAME(const T *x, int count, const Weights &shape, const float *values, bool negative, float *w,           \
                                 std::uint8_t *pattern, std::size_t begin, std::size_t end) {                                         \
    return gates(x, count, shape, values, negative, w, pattern, begin, end);                                                          \
  }                                                                                                                                   \
  BSK_CLONES void gates_back_##NAME(const float *g, const std::uint8_t *pattern, int count, const Weights &shape, const float *slopes, \
                                    const T *x, float push, T *out, std::size_t begin, std::size_t end) {                             \
    gates_back(g, pattern, count, shape, slopes, x, push, out, begin, end);                                                             \
  }                                                                                                                                   \
  BSK_CLONES void levels_of_##NAME(const T *x, const Weights &shape, const Levels &levels, float *w, std::size_t begin,               \
                                   std::size_t end) {                                                                                 \
    levels_of(x, shape, levels, w, begin, end);                                                                                       \
  }                                                                                                                                   \
  BSK_CLONES void levels_back_##NAME(const float *g, const T *x, const Weights &shape, const Levels &levels, T *out, double *sums,    \
                                     std::size_t begin, std::size_t end) {                                                            \
    levels_back(g, x, shape, levels, out, sums, begin, end);                                                                          \
  }                                                                                                                                   \
  BSK_CLONES void powers_##NAME(const T *x, std::size_t inner, const float *low, const float *high, float *w, std::size_t begin,      \
                                std::size_t end) {                                                                                    \
    powers(x, inner, low, high, w, begin, end);                                                                                       \
  }                                                                                                                                   \
  BSK_CLONES double shift_sign_##NAME(const T *p, const T *s, std::size_t inner, const std::int32_t *top, int low, bool squares,      \
                                      float *w, std::size_t begin, std::size_t end) {                                                 \
    return shift_sign(p, s, inner, top, low, squares, w, begin, end);                                                                 \
  }                                                                                                                                   \
  BSK_CLONES void shift_sign_back_##NAME(const float *g, const float *w, const T *p, const Weights &shape, float push, T *dp, T *ds,  \
                                         std::size_t begin, std::size_t end) {                                                        \
    shift_sign_back(g, w, p, shape, push, dp, ds, begin, end);                                                                        \
  }

CLONES(float, f32)
CLONES(Bf16, bf16)

const float *f32(const void *p) { return static_cast<const float *>(p); }
float *f32(void *p) { return static_cast<float *>(p); }
const Bf16 *bf16(const void *p) { return static_cast<const Bf16 *>(p); }
Bf16 *bf16(void *p) { return static_cast<Bf16 *>(p); }

}  // namespace

double gate_forward(Real real, const void *latents, int count, const Weights &shape, const float *values, bool negative, float *weight,
                    std::uint8_t *pattern, std::size_t begin, std::size_t end) {
  return real == Real::f32 ? gates_f32(f32(latents), count, shape, values, negative, weight, pattern, begin, end)
                           : gates_bf16(bf16(latents), count, shape, values, negative, weight, pattern, begin, end);
}

void gate_backward(Real real, const float *g, const std::uint8_t *pattern, int count, const Weights &shape, const float *slopes,
                   const void *latents, float push, void *out, std::size_t begin, std::size_t end) {
  real == Real::f32 ? gates_back_f32(g, pattern, count, shape, slopes, f32(latents), push, f32(out), begin, end)
                    : gates_back_bf16(g, pattern, count, shape, slopes, bf16(latents), push, bf16(out), begin, end);
}

void level_forward(Real real, const void *latent, const Weights &shape, const Levels &levels, float *weight, std::size_t begin,
                   std::size_t end) {
  real == Real::f32 ? levels_of_f32(f32(latent), shape, levels, weight, begin, end)
                    : levels_of_bf16(bf16(latent), shape, levels, weight, begin, end);
}

void level_backward(Real real, const float *g, const void *latent, const Weights &shape, const Levels &levels, void *out, double *sums,
                    std::size_t begin, std::size_t end) {
  real == Real::f32 ? levels_back_f32(g, f32(latent), shape, levels, f32(out), sums, begin, end)
                    : levels_back_bf16(g, bf16(latent), shape, levels, bf16(out), sums, begin, end);
}

void power_forward(Real real, const void *latent, std::size_t inner, const float *low, const float *high, float *weight,
                   std::size_t begin, std::size_t end) {
  real == Real::f32 ? powers_f32(f32(latent), inner, low, high, weight, begin, end)
                    : powers_bf16(bf16(latent), inner, low, high, weight, begin, end);
}

double shift_sign_forward(Real real, const void *shift, const void *sign, std::size_t inner, const std::int32_t *top, int low,
                          bool squares, float *weight, std::size_t begin, std::size_t end) {
  return real == Real::f32 ? shift_sign_f32(f32(shift), f32(sign), inner, top, low, squares, weight, begin, end)
                           : shift_sign_bf16(bf16(shift), bf16(sign), inner, top, low, squares, weight, begin, end);
}

void shift_sign_backward(Real real, const float *g, const float *weight, const void *shift, const Weights &shape, float push, void *d_shift,
                         void *d_sign, std::size_t begin, std::size_t end) {
  real == Real::f32 ? shift_sign_back_f32(g, weight, f32(shift), shape, push, f32(d_shift), f32(d_sign), begin, end)
                    : shift_sign_back_bf16(g, weight, bf16(shift), shape, push, bf16(d_shift), bf16(d_sign), begin, end);
}

}  // namespace bitshift::train
