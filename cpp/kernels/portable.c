/* Elementwise operations, pooling, and moving elements. Convolution and matrix product are in conv.c. */
#include "internal.h"

size_t bsk_dtype_size(bsk_dtype dtype) {
  return dtype == BSK_U8 || dtype == BSK_I8 ? 1 : dtype == BSK_I16 ? 2 : 4;
}

static size_t chunk(size_t at, size_t n) { return n - at < BSK_CHUNK ? n - at : BSK_CHUNK; }

/* ---- elementwise, integer -------------------------------------------------------------------------------------- */

BSK_CLONES void bsk_add_int(const bsk_add *p, const void *a, bsk_dtype type_a, const void *b, bsk_dtype type_b, void *out,
                            bsk_dtype out_type, size_t n) {
  /* factor_b is 0 without a second input, whose block then is all zeros. */
  const int64_t factor_a = (int64_t)1 << p->shift_a, factor_b = b ? (int64_t)1 << p->shift_b : 0;
  const int64_t half = p->down ? (int64_t)1 << (p->down - 1) : 0;
  const int32_t lo = p->lo, hi = p->hi;
  const int down = p->down;
  int32_t block_a[BSK_CHUNK], block_b[BSK_CHUNK];
  size_t at, i, m;
  memset(block_b, 0, sizeof block_b);
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    bsk_load(block_a, a, type_a, at, m);
    if (b) bsk_load(block_b, b, type_b, at, m);
    for (i = 0; i < m; i++)
      block_a[i] = bsk_clamp_i64(bsk_asr64(block_a[i] * factor_a + block_b[i] * factor_b + half, down), lo, hi);
    bsk_store(out, out_type, at, block_a, m);
  }
}

BSK_CLONES void bsk_rescale_int(int32_t mult, int64_t offset, int shift, int32_t lo, int32_t hi, const void *x, bsk_dtype in,
                                void *out, bsk_dtype out_type, size_t n) {
  int32_t block[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    bsk_load(block, x, in, at, m);
    for (i = 0; i < m; i++) block[i] = bsk_clamp_i64(bsk_asr64((int64_t)block[i] * mult + offset, shift), lo, hi);
    bsk_store(out, out_type, at, block, m);
  }
}

BSK_CLONES void bsk_clamp_int(int32_t lo, int32_t hi, const void *x, void *out, bsk_dtype dtype, size_t n) {
  int32_t block[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    bsk_load(block, x, dtype, at, m);
    for (i = 0; i < m; i++) block[i] = bsk_clamp_i32(block[i], lo, hi);
    bsk_store(out, dtype, at, block, m);
  }
}

void bsk_table(const void *x, bsk_dtype in, int32_t lo, const void *table, void *out, size_t item, size_t n) {
  const uint8_t *entries = table;
  uint8_t *dst = out;
  int32_t block[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    bsk_load(block, x, in, at, m);
    switch (item) {
      case 1:
        for (i = 0; i < m; i++) dst[at + i] = entries[block[i] - lo];
        break;
      case 2:
        for (i = 0; i < m; i++) memcpy(dst + (at + i) * 2, entries + (size_t)(block[i] - lo) * 2, 2);
        break;
      default:
        for (i = 0; i < m; i++) memcpy(dst + (at + i) * 4, entries + (size_t)(block[i] - lo) * 4, 4);
    }
  }
}

BSK_CLONES int bsk_in_range(const void *x, bsk_dtype dtype, int32_t lo, int32_t hi, size_t n) {
  int32_t block[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    int outside = 0;
    m = chunk(at, n);
    bsk_load(block, x, dtype, at, m);
    for (i = 0; i < m; i++) outside |= (block[i] < lo) | (block[i] > hi);
    if (outside) return 0;
  }
  return 1;
}

/* ---- elementwise, float ---------------------------------------------------------------------------------------- */

BSK_CLONES void bsk_add_f32(const float *a, const float *b, float *out, size_t n) {
  size_t i;
  for (i = 0; i < n; i++) out[i] = a[i] + b[i];
}

BSK_CLONES void bsk_affine_f32(float scale, float bias, const float *x, float *out, size_t n) {
  size_t i;
  for (i = 0; i < n; i++) out[i] = x[i] * scale + bias;
}

BSK_CLONES void bsk_clamp_f32(float lo, float hi, const float *x, float *out, size_t n) {
  size_t i;
  /* Comparisons with NaN are false: it falls through to itself. */
  for (i = 0; i < n; i++) out[i] = x[i] < lo ? lo : x[i] > hi ? hi : x[i];
}

/* y = x * factor is exact in binary32 where it matters: x is clamped to the values of lo and hi first, and what may underflow
 * (factor < 1) is decided by half = 0.5 alone. y - floor(y) is exact too, so comparing it with a half gives floor(y + 0.5)
 * without the sum, which would round. */
BSK_CLONES static void quantize_f32(float factor, int half, float low, float high, const float *x, int32_t *out, size_t n) {
  size_t i;
  for (i = 0; i < n; i++) {
    float y = x[i] == x[i] ? x[i] : 0; /* NaN */
    int32_t whole;
    y = y < high ? y : high;
    y = y > low ? y : low;
    y *= factor;
    whole = (int32_t)y;
    whole -= y < (float)whole;
    out[i] = whole + ((y - (float)whole >= 0.5f) & half);
  }
}

BSK_CLONES static void quantize_f64(double factor, double half, int32_t lo, int32_t hi, const float *x, int32_t *out, size_t n) {
  const double low = lo, high = hi;
  size_t i;
  for (i = 0; i < n; i++) {
    double v = (double)x[i] * factor + half;
    int32_t whole;
    v = v == v ? v : 0;
    /* Clamped before the conversion, so that it is defined; lo and hi are integers, so floor commutes with it. */
    v = v < high ? v : high;
    v = v > low ? v : low;
    whole = (int32_t)v;
    out[i] = whole - (v < whole);
  }
}

void bsk_quantize(double factor, double half, int32_t lo, int32_t hi, const float *x, void *out, bsk_dtype out_type, size_t n) {
  const int narrow = lo >= -(1 << 22) && lo <= 0 && hi >= 0 && hi <= 1 << 22 && factor >= (half == 0 ? 1 : 0x1p-60) && factor <= 0x1p60;
  int32_t block[BSK_CHUNK];
  size_t at, m;
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    if (narrow) {
      quantize_f32((float)factor, half != 0, (float)(lo / factor), (float)(hi / factor), x + at, block, m);
    } else {
      quantize_f64(factor, half, lo, hi, x + at, block, m);
    }
    bsk_store(out, out_type, at, block, m);
  }
}

BSK_CLONES void bsk_dequantize(double factor, const void *x, bsk_dtype in, float *out, size_t n) {
  int32_t block[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = chunk(at, n);
    bsk_load(block, x, in, at, m);
    for (i = 0; i < m; i++) out[at + i] = (float)(block[i] * factor);
  }
}

/* ---- pooling, argmax ------------------------------------------------------------------------------------------- */

/* The first NaN met stays: v != v is true only for NaN, and nothing compares greater than it. */
#define BSK_DEFINE_MAX_POOL(NAME, T)                                                                        \
  BSK_INLINE void NAME(const bsk_pool *p, const T *x, T *out, T empty) {                                    \
    int64_t c, oh, ow, kh, kw, lo, hi;                                                                      \
    for (c = 0; c < p->channels; c++, x += p->in_h * p->in_w) {                                             \
      for (oh = 0; oh < p->out_h; oh++, out += p->out_w) {                                                  \
        for (ow = 0; ow < p->out_w; ow++) out[ow] = empty;                                                  \
        for (kh = 0; kh < p->kernel_h; kh++) {                                                              \
          const int64_t ih = oh * p->stride_h - p->pad_top + kh * p->dilation_h;                            \
          if (ih < 0 || ih >= p->in_h) continue;                                                            \
          for (kw = 0; kw < p->kernel_w; kw++) {                                                            \
            const int64_t sw = p->stride_w, at = kw * p->dilation_w - p->pad_left;                          \
            bsk_valid_range(p->out_w, p->in_w, sw, at, &lo, &hi);                                           \
            for (ow = lo; ow < hi; ow++) {                                                                  \
              const T v = x[ih * p->in_w + ow * sw + at], best = out[ow];                                   \
              out[ow] = (v > best) | (v != v) ? v : best;                                                   \
            }                                                                                               \
          }                                                                                                 \
        }                                                                                                   \
      }                                                                                                     \
    }                                                                                                       \
  }
BSK_DEFINE_MAX_POOL(max_pool_u8, uint8_t)
BSK_DEFINE_MAX_POOL(max_pool_i8, int8_t)
BSK_DEFINE_MAX_POOL(max_pool_i16, int16_t)
BSK_DEFINE_MAX_POOL(max_pool_i32, int32_t)
BSK_DEFINE_MAX_POOL(max_pool_f32, float)

BSK_CLONES void bsk_max_pool(const bsk_pool *p, const void *x, void *out, bsk_dtype dtype, int32_t empty) {
  static const uint32_t minus_infinity = 0xff800000u;
  float lowest;
  switch (dtype) {
    case BSK_U8: max_pool_u8(p, x, out, (uint8_t)empty); break;
    case BSK_I8: max_pool_i8(p, x, out, (int8_t)empty); break;
    case BSK_I16: max_pool_i16(p, x, out, (int16_t)empty); break;
    case BSK_I32: max_pool_i32(p, x, out, empty); break;
    default:
      memcpy(&lowest, &minus_infinity, sizeof lowest);
      max_pool_f32(p, x, out, lowest);
  }
}

/* sum[i] = sum over the window of output (oh, first + i) of channel c, i < n <= BSK_CHUNK. */
#define BSK_DEFINE_WINDOW_SUM(NAME, T, ACC)                                                                             \
  BSK_INLINE void NAME(const bsk_pool *p, const T *x, int64_t oh, int64_t first, int64_t n, ACC *sum) {                 \
    int64_t kh, kw, i, lo, hi;                                                                                          \
    for (i = 0; i < n; i++) sum[i] = 0;                                                                                 \
    for (kh = 0; kh < p->kernel_h; kh++) {                                                                              \
      const int64_t ih = oh * p->stride_h - p->pad_top + kh;                                                            \
      if (ih < 0 || ih >= p->in_h) continue;                                                                            \
      for (kw = 0; kw < p->kernel_w; kw++) {                                                                            \
        const int64_t sw = p->stride_w, at = first * sw + kw - p->pad_left;                                             \
        bsk_valid_range(n, p->in_w, sw, at, &lo, &hi);                                                                  \
        for (i = lo; i < hi; i++) sum[i] += x[ih * p->in_w + i * sw + at];                                              \
      }                                                                                                                 \
    }                                                                                                                   \
  }
BSK_DEFINE_WINDOW_SUM(window_sum_u8, uint8_t, int32_t)
BSK_DEFINE_WINDOW_SUM(window_sum_i8, int8_t, int32_t)
BSK_DEFINE_WINDOW_SUM(window_sum_i16, int16_t, int32_t)
BSK_DEFINE_WINDOW_SUM(window_sum_i32, int32_t, int32_t)
BSK_DEFINE_WINDOW_SUM(window_sum_f32, float, float)

BSK_CLONES void bsk_avg_pool_int(const bsk_pool *p, int32_t mult, int64_t offset, int shift, int32_t lo, int32_t hi,
                                 const void *x, bsk_dtype in, void *out, bsk_dtype out_type) {
  const size_t item = bsk_dtype_size(in);
  int32_t sum[BSK_CHUNK];
  int64_t c, oh, first, i, n;
  for (c = 0; c < p->channels; c++) {
    const void *plane = (const uint8_t *)x + (size_t)(c * p->in_h * p->in_w) * item;
    for (oh = 0; oh < p->out_h; oh++) {
      for (first = 0; first < p->out_w; first += n) {
        n = p->out_w - first < BSK_CHUNK ? p->out_w - first : BSK_CHUNK;
        switch (in) {
          case BSK_U8: window_sum_u8(p, plane, oh, first, n, sum); break;
          case BSK_I8: window_sum_i8(p, plane, oh, first, n, sum); break;
          case BSK_I16: window_sum_i16(p, plane, oh, first, n, sum); break;
          default: window_sum_i32(p, plane, oh, first, n, sum);
        }
        for (i = 0; i < n; i++) sum[i] = bsk_clamp_i64(bsk_asr64((int64_t)sum[i] * mult + offset, shift), lo, hi);
        bsk_store(out, out_type, (size_t)((c * p->out_h + oh) * p->out_w + first), sum, (size_t)n);
      }
    }
  }
}

BSK_CLONES void bsk_avg_pool_f32(const bsk_pool *p, float scale, const float *x, float *out) {
  float sum[BSK_CHUNK];
  int64_t c, oh, first, i, n;
  for (c = 0; c < p->channels; c++) {
    for (oh = 0; oh < p->out_h; oh++) {
      for (first = 0; first < p->out_w; first += n) {
        n = p->out_w - first < BSK_CHUNK ? p->out_w - first : BSK_CHUNK;
        window_sum_f32(p, x + c * p->in_h * p->in_w, oh, first, n, sum);
        for (i = 0; i < n; i++) out[(c * p->out_h + oh) * p->out_w + first + i] = sum[i] * scale;
      }
    }
  }
}

void bsk_argmax(const void *x, bsk_dtype in, int32_t *out, size_t rows, size_t n) {
  size_t r, i, at, m;
  int32_t block[BSK_CHUNK];
  for (r = 0; r < rows; r++) {
    size_t best_at = 0;
    if (in == BSK_F32) {
      const float *row = (const float *)x + r * n;
      for (i = 1; i < n && row[best_at] == row[best_at]; i++)
        if (row[i] > row[best_at] || row[i] != row[i]) best_at = i;
    } else {
      int32_t best = INT32_MIN;
      for (at = 0; at < n; at += m) {
        m = chunk(at, n);
        bsk_load(block, x, in, r * n + at, m);
        for (i = 0; i < m; i++) {
          if (block[i] > best) {
            best = block[i];
            best_at = at + i;
          }
        }
      }
    }
    out[r] = (int32_t)best_at;
  }
}

/* ---- moving elements ------------------------------------------------------------------------------------------- */

/* The innermost axis; an item of 1, 2 or 4 bytes moves as one. */
static void copy_line(int64_t n, const uint8_t *src, int64_t src_stride, uint8_t *dst, int64_t dst_stride, size_t item) {
  int64_t i;
  if (src_stride == 1 && dst_stride == 1) {
    memcpy(dst, src, (size_t)n * item);
  } else if (item == 1) {
    for (i = 0; i < n; i++) dst[i * dst_stride] = src[i * src_stride];
  } else if (item == 2) {
    for (i = 0; i < n; i++) memcpy(dst + i * dst_stride * 2, src + i * src_stride * 2, 2);
  } else {
    for (i = 0; i < n; i++) memcpy(dst + i * dst_stride * 4, src + i * src_stride * 4, 4);
  }
}

void bsk_copy_strided(int axes, const int64_t *shape, const void *src, const int64_t *src_stride, void *dst,
                      const int64_t *dst_stride, size_t item) {
  int64_t index[BSK_MAX_AXES] = {0}, from = 0, to = 0; /* elements, so that no pointer ever leaves its buffer */
  int k;
  if (axes == 0) {
    memcpy(dst, src, item);
    return;
  }
  for (;;) {
    copy_line(shape[axes - 1], (const uint8_t *)src + (size_t)from * item, src_stride[axes - 1],
              (uint8_t *)dst + (size_t)to * item, dst_stride[axes - 1], item);
    /* Count the outer axes like the digits of a number. */
    for (k = axes - 2; k >= 0; k--) {
      from += src_stride[k];
      to += dst_stride[k];
      if (++index[k] < shape[k]) break;
      from -= src_stride[k] * shape[k];
      to -= dst_stride[k] * shape[k];
      index[k] = 0;
    }
    if (k < 0) return;
  }
}

void bsk_fill(void *out, const void *value, size_t item, size_t n) {
  uint8_t *dst = out;
  size_t i;
  for (i = 0; i < n; i++, dst += item) memcpy(dst, value, item);
}
