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

/* Adding and subtracting MAGIC (3/2 of the power of two whose ulp is 1) rounds to an integer, so only integers stay what they
 * are, as far as they are small. In T the product is exact, or too small to be an integer, or too large to be in range. */
#define BSK_DEFINE_GRID(NAME, T, MAGIC)                                            \
  BSK_CLONES int NAME(double factor, const T *x, size_t n) {                       \
    const T scale = (T)factor, magic = MAGIC;                                      \
    int32_t no_u8 = 0, no_i8 = 0;                                                  \
    size_t at, i, m;                                                               \
    for (at = 0; at < n && !(no_u8 && no_i8); at += m) {                           \
      m = chunk(at, n);                                                            \
      for (i = 0; i < m; i++) {                                                    \
        const T v = x[at + i] * scale;                                             \
        const int32_t off = (v + magic) - magic != v;                              \
        no_u8 |= off | !(v >= 0) | !(v <= 255);                                    \
        no_i8 |= off | !(v >= -128) | !(v <= 127);                                 \
      }                                                                            \
    }                                                                              \
    return (no_u8 ? 0 : BSK_GRID_U8) | (no_i8 ? 0 : BSK_GRID_I8);                  \
  }

BSK_DEFINE_GRID(bsk_border_grid_f32, float, 12582912.0F)
BSK_DEFINE_GRID(bsk_border_grid_f64, double, 6755399441055744.0)

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
