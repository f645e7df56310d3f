// Activation quantiser and norm.
#include "vector.h"

namespace bitshift::train {
namespace {

constexpr std::size_t kLanes = 16;
// Elements that are summed in float before they go to a double.
constexpr std::size_t kBlock = 2048;
constexpr std::size_t kRows = 64;
constexpr std::size_t kChannelBlock = 256;

BSK_INLINE float on_grid(float x, const Grid &grid) {
  float v = std::floor(x * grid.inverse + 0.5f);
  v = v < grid.lo ? grid.lo : v;
  v = v > grid.hi ? grid.hi : v;
  return v * grid.step;
}

template <class T>
BSK_INLINE void forward(const T *__restrict x, T *__restrict y, std::size_t n, const Grid grid) {
  for (std::size_t i = 0; i < n; i++) store(y + i, on_grid(load(x + i), grid));
}

template <class T>
BSK_INLINE float backward_one(const T *g, const T *x, T *dx, const Grid &grid, float low, float high) {
  const float value = load(x), slope = load(g), y = on_grid(value, grid);
  const bool outside = (value < low) | (value > high);
  store(dx, outside ? 0.0f : slope);
  return slope * (y - (outside ? 0.0f : value));
}

template <class T>
BSK_INLINE double backward(const T *__restrict g, const T *__restrict x, T *__restrict dx, std::size_t n, const Grid grid) {
  const float low = grid.lo * grid.step, high = grid.hi * grid.step;
  double total = 0;
  std::size_t at = 0;
  while (n - at >= kLanes) {
    const std::size_t left = n - at, stop = at + (left < kBlock ? left / kLanes * kLanes : kBlock);
    float sums[kLanes] = {0};
    for (; at < stop; at += kLanes)
      for (std::size_t j = 0; j < kLanes; j++) sums[j] += backward_one(g + at + j, x + at + j, dx + at + j, grid, low, high);
    for (std::size_t j = 0; j < kLanes; j++) total += sums[j];
  }
  for (; at < n; at++) total += backward_one(g + at, x + at, dx + at, grid, low, high);
  return total;
}

// Channels-last rows: sums of a block of rows for a block of channels stay in float, then go to the doubles.
template <class T, bool Centre>
BSK_INLINE void sums_of_rows(const T *a, const T *b, const float *shift, std::size_t channels, std::size_t begin, std::size_t end,
                             double *first, double *second) {
  for (std::size_t c0 = 0; c0 < channels; c0 += kChannelBlock) {
    const std::size_t width = channels - c0 < kChannelBlock ? channels - c0 : kChannelBlock;
    for (std::size_t r0 = begin; r0 < end; r0 += kRows) {
      const std::size_t stop = end - r0 < kRows ? end : r0 + kRows;
      float one[kChannelBlock] = {0}, two[kChannelBlock] = {0};
      std::size_t r = r0;
      for (; r + 4 <= stop; r += 4) {
        const T *pa = a + r * channels + c0, *pb = b + r * channels + c0;
        for (std::size_t c = 0; c < width; c++) {
          const float s = shift[c0 + c], sa = Centre ? s : 0.0f;
          const float a0 = load(pa + c) - sa, a1 = load(pa + channels + c) - sa, a2 = load(pa + 2 * channels + c) - sa,
                      a3 = load(pa + 3 * channels + c) - sa;
          const float b0 = load(pb + c) - s, b1 = load(pb + channels + c) - s, b2 = load(pb + 2 * channels + c) - s,
                      b3 = load(pb + 3 * channels + c) - s;
          one[c] += (a0 + a1) + (a2 + a3);
          two[c] += (a0 * b0 + a1 * b1) + (a2 * b2 + a3 * b3);
        }
      }
      for (; r < stop; r++)
        for (std::size_t c = 0; c < width; c++) {
          const float s = shift[c0 + c], v = load(a + r * channels + c0 + c) - (Centre ? s : 0.0f);
          one[c] += v;
          two[c] += v * (load(b + r * channels + c0 + c) - s);
        }
      for (std::size_t c = 0; c < width; c++) {
        first[c0 + c] += one[c];
        second[c0 + c] += two[c];
      }
    }
  }
}

template <class T, bool Centre>
BSK_INLINE void sums_of_planes(const T *a, const T *b, const float *shift, const Channels &shape, std::size_t begin, std::size_t end,
                               double *first, double *second) {
  for (std::size_t plane = begin * shape.channels; plane < end * shape.channels; plane++) {
    const std::size_t c = plane % shape.channels;
    const T *pa = a + plane * shape.inner, *pb = b + plane * shape.inner;
    const float s = shift[c], sa = Centre ? s : 0.0f;
    std::size_t at = 0;
    while (shape.inner - at >= kLanes) {
      const std::size_t left = shape.inner - at, stop = at + (left < kBlock ? left / kLanes * kLanes : kBlock);
      float one[kLanes] = {0}, two[kLanes] = {0};
      for (; at < stop; at += kLanes)
        for (std::size_t j = 0; j < kLanes; j++) {
          const float v = load(pa + at + j) - sa;
          one[j] += v;
          two[j] += v * (load(pb + at + j) - s);
        }
      for (std::size_t j = 0; j < kLanes; j++) {
        first[c] += one[j];
        second[c] += two[j];
      }
    }
    for (; at < shape.inner; at++) {
      const float v = load(pa + at) - sa;
      first[c] += v;
      second[c] += v * (load(pb + at) - s);
    }
  }
}

template <class T>
BSK_INLINE void sums(const T *a, const T *b, const float *shift, bool centre_a, const Channels &shape, std::size_t begin, std::size_t end,
                     double *first, double *second) {
  if (shape.inner == 1)
    centre_a ? sums_of_rows<T, true>(a, b, shift, shape.channels, begin, end, first, second)
             : sums_of_rows<T, false>(a, b, shift, shape.channels, begin, end, first, second);
  else
    centre_a ? sums_of_planes<T, true>(a, b, shift, shape, begin, end, first, second)
             : sums_of_planes<T, false>(a, b, shift, shape, begin, end, first, second);
}

template <class T>
BSK_INLINE void map(const T *__restrict x, T *__restrict y, const float *mean, const float *gain, const float *beta, const Channels &shape,
                    std::size_t begin, std::size_t end) {
  if (shape.inner == 1) {
    for (std::size_t r = begin; r < end; r++)
      for (std::size_t c = 0; c < shape.channels; c++) {
        const std::size_t i = r * shape.channels + c;
        store(y + i, (load(x + i) - mean[c]) * gain[c] + beta[c]);
      }
    return;
  }
  for (std::size_t plane = begin * shape.channels; plane < end * shape.channels; plane++) {
    const std::size_t c = plane % shape.channels;
    const float m = mean[c], a = gain[c], b = beta[c];
    for (std::size_t i = plane * shape.inner; i < (plane + 1) * shape.inner; i++) store(y + i, (load(x + i) - m) * a + b);
  }
}

template <class T>
BSK_INLINE void map_backward(const T *__restrict g, const T *__restrict x, T *__restrict dx, const float *mean, const float *a,
                             const float *b, const float *d, const Channels &shape, std::size_t begin, std::size_t end) {
  if (shape.inner == 1) {
    for (std::size_t r = begin; r < end; r++)
      for (std::size_t c = 0; c < shape.channels; c++) {
        const std::size_t i = r * shape.channels + c;
        store(dx + i, load(g + i) * a[c] + (load(x + i) - mean[c]) * b[c] + d[c]);
      }
    return;
  }
  for (std::size_t plane = begin * shape.channels; plane < end * shape.channels; plane++) {
    const std::size_t c = plane % shape.channels;
    const float m = mean[c], ac = a[c], bc = b[c], dc = d[c];
    for (std::size_t i = plane * shape.inner; i < (plane + 1) * shape.inner; i++)
      store(dx + i, load(g + i) * ac + (load(x + i) - m) * bc + dc);
  }
}

#define F32(p) static_cast<const float *>(p)
#define BF16(p) static_cast<const Bf16 *>(p)

// A clone for each instruction set can only be made of a function with a body of its own.
BSK_CLONES void forward_f32(const float *x, float *y, std::size_t n, const Grid &grid) { forward(x, y, n, grid); }
BSK_CLONES void forward_bf16(const Bf16 *x, Bf16 *y, std::size_t n, const Grid &grid) { forward(x, y, n, grid); }
BSK_CLONES double backward_f32(const float *g, const float *x, float *dx, std::size_t n, const Grid &grid) {
  return backward(g, x, dx, n, grid);
}
BSK_CLONES double backward_bf16(const Bf16 *g, const Bf16 *x, Bf16 *dx, std::size_t n, const Grid &grid) {
  return backward(g, x, dx, n, grid);
}
BSK_CLONES void sums_f32(const float *a, const float *b, const float *shift, bool centre_a, const Channels &shape, std::size_t begin,
                         std::size_t end, double *first, double *second) {
  sums(a, b, shift, centre_a, shape, begin, end, first, second);
}
BSK_CLONES void sums_bf16(const Bf16 *a, const Bf16 *b, const float *shift, bool centre_a, const Channels &shape, std::size_t begin,
                          std::size_t end, double *first, double *second) {
  sums(a, b, shift, centre_a, shape, begin, end, first, second);
}
BSK_CLONES void map_f32(const float *x, float *y, const float *mean, const float *gain, const float *beta, const Channels &shape,
                        std::size_t begin, std::size_t end) {
  map(x, y, mean, gain, beta, shape, begin, end);
}
BSK_CLONES void map_bf16(const Bf16 *x, Bf16 *y, const float *mean, const float *gain, const float *beta, const Channels &shape,
                         std::size_t begin, std::size_t end) {
  map(x, y, mean, gain, beta, shape, begin, end);
}
BSK_CLONES void map_backward_f32(const float *g, const float *x, float *dx, const float *mean, const float *a, const float *b,
                                 const float *d, const Channels &shape, std::size_t begin, std::size_t end) {
  map_backward(g, x, dx, mean, a, b, d, shape, begin, end);
}
BSK_CLONES void map_backward_bf16(const Bf16 *g, const Bf16 *x, Bf16 *dx, const float *mean, const float *a, const float *b,
                                  const float *d, const Channels &shape, std::size_t begin, std::size_t end) {
  map_backward(g, x, dx, mean, a, b, d, shape, begin, end);
}

}  // namespace

void grid_forward(Real real, const void *x, void *y, std::size_t n, const Grid &grid) {
  real == Real::f32 ? forward_f32(F32(x), static_cast<float *>(y), n, grid) : forward_bf16(BF16(x), static_cast<Bf16 *>(y), n, grid);
}

double grid_backward(Real real, const void *g, const void *x, void *dx, std::size_t n, const Grid &grid) {
  return real == Real::f32 ? backward_f32(F32(g), F32(x), static_cast<float *>(dx), n, grid)
                           : backward_bf16(BF16(g), BF16(x), static_cast<Bf16 *>(dx), n, grid);
}

void channel_sums(Real real, const void *a, const void *b, const float *shift, bool centre_a, const Channels &shape, std::size_t begin,
                  std::size_t end, double *first, double *second) {
  real == Real::f32 ? sums_f32(F32(a), F32(b), shift, centre_a, shape, begin, end, first, second)
                    : sums_bf16(BF16(a), BF16(b), shift, centre_a, shape, begin, end, first, second);
}

void channel_map(Real real, const void *x, void *y, const float *mean, const float *gain, const float *beta, const Channels &shape,
                 std::size_t begin, std::size_t end) {
  real == Real::f32 ? map_f32(F32(x), static_cast<float *>(y), mean, gain, beta, shape, begin, end)
                    : map_bf16(BF16(x), static_cast<Bf16 *>(y), mean, gain, beta, shape, begin, end);
}

void channel_map_backward(Real real, const void *g, const void *x, void *dx, const float *mean, const float *a, const float *b,
                          const float *d, const Channels &shape, std::size_t begin, std::size_t end) {
  real == Real::f32 ? map_backward_f32(F32(g), F32(x), static_cast<float *>(dx), mean, a, b, d, shape, begin, end)
                    : map_backward_bf16(BF16(g), BF16(x), static_cast<Bf16 *>(dx), mean, a, b, d, shape, begin, end);
}

}  // namespace bitshift::train
