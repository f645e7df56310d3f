/* Floats to integers and back. Compiled without contraction: a fused multiply-add would round once where the rule rounds twice. */
#include "border.h"

#include "internal.h"

static size_t chunk(size_t at, size_t n) { return n - at < BSK_CHUNK ? n - at : BSK_CHUNK; }

/* Clamped before the conversion to int32, so that it is defined; lo and hi are integers, so floor commutes with the clamp.
 * Selects only, no branches: CMakeLists.txt keeps gcc from making them again, so that the loop becomes vectors. */
#define BSK_DEFINE_QUANTIZE(NAME, T)                                                                                  \
  BSK_CLONES void NAME(double factor, int32_t lo, int32_t hi, const T *x, void *out, bsk_dtype out_type, size_t n) {  \
    const double low = lo, high = hi;                                                                                 \
    int32_t block[BSK_CHUNK];                                                                                         \
    size_t at, i, m;                                                                                                  \
    for (at = 0; at < n; at += m) {                                                                                   \
      m = chunk(at, n);                                                                                               \
      for (i = 0; i < m; i++) {                                                                                       \
        const double v = (double)x[at + i] * factor + 0.5;                                                            \
        double inside = v > low ? v : low, whole; /* a NaN is `low` for now */                                        \
        inside = inside < high ? inside : high;                                                                       \
        whole = (double)(int32_t)inside;                                                                              \
        whole = whole > inside ? whole - 1.0 : whole;                                                                 \
        block[i] = (int32_t)(v == v ? whole : 0.0);                                                                   \
      }                                                                                                               \
      bsk_store(out, out_type, at, block, m);                                                                         \
    }                                                                                                                 \
  }

BSK_DEFINE_QUANTIZE(bsk_border_quantize_f32, float)
BSK_DEFINE_QUANTIZE(bsk_border_quantize_f64, double)

/* The same without a type to store: a product with a power of two behind the clamp is exact in float for 24 bits. */
#define BSK_DEFINE_ROUND(NAME, T)                                                                                  \
  BSK_CLONES void NAME(double factor, double half, int32_t lo, int32_t hi, const T *x, float *out, size_t n) {     \
    const double low = lo, high = hi, back = 1.0 / factor;                                                         \
    size_t i;                                                                                                      \
    for (i = 0; i < n; i++) {                                                                                      \
      const double v = (double)x[i] * factor + half;                                                               \
      double inside = v > low ? v : low, whole;                                                                    \
      inside = inside < high ? inside : high;                                                                      \
      whole = (double)(int32_t)inside;                                                                             \
      whole = whole > inside ? whole - 1.0 : whole;                                                                \
      out[i] = (float)((v == v ? whole : 0.0) * back);                                                             \
    }                                                                                                              \
  }

BSK_DEFINE_ROUND(bsk_border_round_f32, float)
BSK_DEFINE_ROUND(bsk_border_round_f64, double)

/* The lowest bits of a number to which 3/2 of the power of two with ulp 1 was added are an integer; taking it away again shows
 * whether anything was rounded off. In T the product is exact, or too small to be an integer, or too large to be in range. */
BSK_INLINE int32_t low_bits_f32(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return (int32_t)(bits - 0x4B400000U);
}

BSK_INLINE int32_t low_bits_f64(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return (int32_t)(uint32_t)bits;
}

#define BSK_DEFINE_GRID(NAME, T, MAGIC, LOW_BITS)                                  \
  BSK_CLONES int NAME(double factor, const T *x, size_t n, int32_t *lo, int32_t *hi) { \
    const T scale = (T)factor, magic = MAGIC;                                      \
    int32_t smallest = n ? BSK_GRID : 0, largest = n ? -BSK_GRID : 0;              \
    size_t at, i, m;                                                               \
    for (at = 0; at < n; at += m) {                                                \
      int32_t outside = 0;                                                         \
      m = chunk(at, n);                                                            \
      for (i = 0; i < m; i++) {                                                    \
        const T v = x[at + i] * scale, moved = v + magic;                          \
        const int32_t whole = LOW_BITS(moved);                                     \
        outside |= (moved - magic != v) | !(v >= -BSK_GRID) | !(v <= BSK_GRID);    \
        smallest = whole < smallest ? whole : smallest;                            \
        largest = whole > largest ? whole : largest;                               \
      }                                                                            \
      if (outside) return 0;                                                       \
    }                                                                              \
    *lo = smallest;                                                                \
    *hi = largest;                                                                 \
    return 1;                                                                      \
  }

BSK_DEFINE_GRID(bsk_border_grid_f32, float, 12582912.0F, low_bits_f32)
BSK_DEFINE_GRID(bsk_border_grid_f64, double, 6755399441055744.0, low_bits_f64)

#define BSK_DEFINE_SCALE(NAME, T)                                                                        \
  BSK_CLONES void NAME(double mult, double offset, const int32_t *x, T *out, size_t n) {                 \
    size_t i;                                                                                            \
    for (i = 0; i < n; i++) out[i] = (T)((double)x[i] * mult + offset);                                  \
  }

BSK_DEFINE_SCALE(bsk_border_scale_f64, double)
BSK_DEFINE_SCALE(bsk_border_scale_f32, float)

#define BSK_DEFINE_SCALE_ROW(NAME, T)                                                                              \
  BSK_CLONES void NAME(const double *mult, const double *offset, const int32_t *x, T *out, size_t n) {             \
    size_t i;                                                                                                      \
    for (i = 0; i < n; i++) out[i] = (T)((double)x[i] * mult[i] + offset[i]);                                      \
  }

BSK_DEFINE_SCALE_ROW(bsk_border_scale_row_f64, double)
BSK_DEFINE_SCALE_ROW(bsk_border_scale_row_f32, float)
