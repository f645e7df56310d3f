/* Convolution and matrix product: bring the input into rows, multiply (gemm.c), apply rule 4. */
#include "internal.h"

size_t bsk_dot_size(bsk_dot kind) { return kind == BSK_DOT_I16 ? 2 : 4; }

size_t bsk_row_stride(size_t k) { return (k + BSK_ROW_ALIGN - 1) / BSK_ROW_ALIGN * BSK_ROW_ALIGN; }

static size_t align64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Rows gathered at a time: about 32 KiB of them, an even number. */
static size_t tile_rows(size_t stride, bsk_dot kind, size_t rows) {
  size_t tile = 32768 / (stride * bsk_dot_size(kind)) / 2 * 2;
  tile = tile < 8 ? 8 : tile > 64 ? 64 : tile;
  return tile < rows ? tile : rows;
}

/* ---- rule 4 ---------------------------------------------------------------------------------------------------- */

BSK_CLONES void bsk_requant_row(const bsk_requant *q, size_t c, const int32_t *acc, size_t n, const void *residual,
                                bsk_dtype res, size_t res_at, void *out, bsk_dtype out_type, size_t out_at) {
  const int32_t lo = q->lo, hi = q->hi, mult = q->mult[c];
  const int shift = q->shift[c];
  const int64_t offset = q->offset[c], res_factor = residual ? (int64_t)1 << q->res_shift[c] : 0;
  int32_t y[BSK_CHUNK], r[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = n - at < BSK_CHUNK ? n - at : BSK_CHUNK;
    if (residual)
      bsk_load(r, residual, res, res_at + at, m);
    else
      memset(r, 0, m * sizeof r[0]);
    if (q->narrow) {
      const int32_t offset_32 = (int32_t)offset, factor_32 = (int32_t)res_factor;
      const int shift_32 = shift < 31 ? shift : 31;
      for (i = 0; i < m; i++)
        y[i] = bsk_clamp_i32((acc[at + i] * mult + offset_32 + r[i] * factor_32) >> shift_32, lo, hi);
    } else {
      for (i = 0; i < m; i++)
        y[i] = bsk_clamp_i64(bsk_asr64((int64_t)acc[at + i] * mult + offset + r[i] * res_factor, shift), lo, hi);
    }
    bsk_store(out, out_type, out_at + at, y, m);
  }
}

BSK_CLONES void bsk_requant_channels(const bsk_requant *q, const int32_t *acc, size_t n, const void *residual, bsk_dtype res,
                                     size_t res_at, void *out, bsk_dtype out_type, size_t out_at) {
  int32_t y[BSK_CHUNK], r[BSK_CHUNK];
  size_t at, i, m;
  for (at = 0; at < n; at += m) {
    m = n - at < BSK_CHUNK ? n - at : BSK_CHUNK;
    if (residual) bsk_load(r, residual, res, res_at + at, m);
    for (i = 0; i < m; i++) {
      const size_t c = at + i;
      int64_t v = (int64_t)acc[c] * q->mult[c] + q->offset[c];
      if (residual) v += r[i] * ((int64_t)1 << q->res_shift[c]);
      y[i] = bsk_clamp_i64(bsk_asr64(v, q->shift[c]), q->lo, q->hi);
    }
    bsk_store(out, out_type, out_at + at, y, m);
  }
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* dst[p][c] = src[c][p] as elements of kind, p = 0..count-1: channels last, what a window reads in one piece. */
static void channels_last(const void *src, bsk_dtype in, int64_t channels, int64_t count, bsk_dot kind, void *dst) {
  int64_t c, p;
  int32_t block[BSK_CHUNK];
  for (c = 0; c < channels; c++) {
    for (p = 0; p < count; p += BSK_CHUNK) {
      const int64_t n = count - p < BSK_CHUNK ? count - p : BSK_CHUNK;
      int64_t i;
      if (kind == BSK_DOT_F32) {
        const float *s = (const float *)src + c * count + p;
        float *d = (float *)dst + p * channels + c;
        for (i = 0; i < n; i++) d[i * channels] = s[i];
        continue;
      }
      bsk_load(block, src, in, (size_t)(c * count + p), (size_t)n);
      if (kind == BSK_DOT_I16) {
        int16_t *d = (int16_t *)dst + p * channels + c;
        for (i = 0; i < n; i++) d[i * channels] = (int16_t)block[i];
      } else {
        int32_t *d = (int32_t *)dst + p * channels + c;
        for (i = 0; i < n; i++) d[i * channels] = block[i];
      }
    }
  }
}

/* One padded row: the window of output (oh, ow) in (kernel_h, kernel_w, channel) order; x is channels last. */
static void gather_window(const bsk_conv *p, int64_t channels, size_t item, const uint8_t *x, int64_t oh, int64_t ow,
                          uint8_t *row) {
  const size_t pixel = (size_t)channels * item;
  const int64_t left = ow * p->stride_w - p->pad_left;
  int64_t kh, kw;
  for (kh = 0; kh < p->kernel_h; kh++, row += (size_t)p->kernel_w * pixel) {
    const int64_t ih = oh * p->stride_h - p->pad_top + kh * p->dilation_h;
    const uint8_t *line = x;
    if (ih < 0 || ih >= p->in_h) {
      memset(row, 0, (size_t)p->kernel_w * pixel);
      continue;
    }
    line += (size_t)(ih * p->in_w) * pixel;
    if (p->dilation_w == 1 && left >= 0 && left + p->kernel_w <= p->in_w) {
      memcpy(row, line + (size_t)left * pixel, (size_t)p->kernel_w * pixel);
      continue;
    }
    for (kw = 0; kw < p->kernel_w; kw++) {
      const int64_t iw = left + kw * p->dilation_w;
      if (iw < 0 || iw >= p->in_w)
        memset(row + (size_t)kw * pixel, 0, pixel);
      else
        memcpy(row + (size_t)kw * pixel, line + (size_t)iw * pixel, pixel);
    }
  }
}

/* Whether the channels-last input already is the matrix of rows. */
static int rows_are_pixels(const bsk_conv *p, int64_t channels) {
  return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 &&
         p->pad_left == 0 && p->out_h == p->in_h && p->out_w == p->in_w && channels % BSK_ROW_ALIGN == 0;
}

static size_t gather_rows(const bsk_conv *p, int64_t channels, bsk_dot kind, const uint8_t *x, int64_t first, size_t rows,
                          size_t stride, uint8_t *dst) {
  const size_t item = bsk_dot_size(kind), used = (size_t)(p->kernel_h * p->kernel_w * channels) * item;
  size_t i;
  for (i = 0; i < rows; i++, dst += stride * item) {
    gather_window(p, channels, item, x, (first + (int64_t)i) / p->out_w, (first + (int64_t)i) % p->out_w, dst);
    memset(dst + used, 0, stride * item - used);
  }
  return rows;
}

static void gemm(bsk_dot kind, const void *x, size_t rows_x, const void *w, size_t rows_w, size_t stride, void *acc,
                 size_t acc_w, size_t acc_x) {
  switch (kind) {
    case BSK_DOT_I16: bsk_gemm_i16(x, rows_x, w, rows_w, stride, acc, acc_w, acc_x); break;
    case BSK_DOT_I32: bsk_gemm_i32(x, rows_x, w, rows_w, stride, acc, acc_w, acc_x); break;
    default: bsk_gemm_f32(x, rows_x, w, rows_w, stride, acc, acc_w, acc_x);
  }
}

/* ---- convolution ----------------------------------------------------------------------------------------------- */

int bsk_conv_is_depthwise(const bsk_conv *p) { return p->groups > 1 && p->groups == p->in_c; }

static size_t conv_stride(const bsk_conv *p) {
  return bsk_row_stride((size_t)(p->kernel_h * p->kernel_w * (p->in_c / p->groups)));
}

size_t bsk_conv_scratch(const bsk_conv *p, bsk_dot kind) {
  const size_t in_hw = (size_t)(p->in_h * p->in_w), out_hw = (size_t)(p->out_h * p->out_w), stride = conv_stride(p);
  const size_t tile = tile_rows(stride, kind, out_hw);
  if (bsk_conv_is_depthwise(p)) return align64(in_hw * 4) + align64(out_hw * 4);
  return align64(in_hw * (size_t)(p->in_c / p->groups) * bsk_dot_size(kind)) + align64(tile * stride * bsk_dot_size(kind)) +
         align64((size_t)(p->out_c / p->groups) * tile * 4);
}

/* acc (out_h, out_w) = one channel convolved with one kernel. Both types are 4 bytes; see DEFINE below. */
#define BSK_DEFINE_DEPTHWISE(NAME, T)                                                                     \
  BSK_CLONES void NAME(const bsk_conv *p, const T *x, const T *w, T *acc);                                \
  BSK_CLONES void NAME(const bsk_conv *p, const T *x, const T *w, T *acc) {                               \
    int64_t kh, kw, oh, ow, h_lo, h_hi, w_lo, w_hi;                                                       \
    const int64_t sw = p->stride_w;                                                                       \
    memset(acc, 0, (size_t)(p->out_h * p->out_w) * sizeof acc[0]);                                        \
    for (kh = 0; kh < p->kernel_h; kh++) {                                                                \
      const int64_t at_h = kh * p->dilation_h - p->pad_top;                                               \
      bsk_valid_range(p->out_h, p->in_h, p->stride_h, at_h, &h_lo, &h_hi);                                \
      for (kw = 0; kw < p->kernel_w; kw++) {                                                              \
        const int64_t at_w = kw * p->dilation_w - p->pad_left;                                            \
        const T weight = w[kh * p->kernel_w + kw];                                                        \
        bsk_valid_range(p->out_w, p->in_w, sw, at_w, &w_lo, &w_hi);                                       \
        for (oh = h_lo; oh < h_hi; oh++) {                                                                \
          const T *line = x + (oh * p->stride_h + at_h) * p->in_w;                                        \
          T *row = acc + oh * p->out_w;                                                                   \
          if (sw == 1)                                                                                    \
            for (ow = w_lo; ow < w_hi; ow++) row[ow] += weight * line[ow + at_w];                         \
          else                                                                                            \
            for (ow = w_lo; ow < w_hi; ow++) row[ow] += weight * line[ow * sw + at_w];                    \
        }                                                                                                 \
      }                                                                                                   \
    }                                                                                                     \
  }
BSK_DEFINE_DEPTHWISE(bsk_depthwise_i32, int32_t)
BSK_DEFINE_DEPTHWISE(bsk_depthwise_f32, float)

void bsk_conv_int(const bsk_conv *p, bsk_dot kind, const void *x, bsk_dtype in, const void *weights, const bsk_requant *q,
                  const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch) {
  const int64_t in_hw = p->in_h * p->in_w, out_hw = p->out_h * p->out_w;
  const int64_t per_in = p->in_c / p->groups, per_out = p->out_c / p->groups;
  const size_t stride = conv_stride(p), item = bsk_dot_size(kind), tile = tile_rows(stride, kind, (size_t)out_hw);
  uint8_t *const pixels = scratch;
  uint8_t *const rows = pixels + align64((size_t)(in_hw * per_in) * item);
  int32_t *const acc = (int32_t *)(void *)(rows + align64(tile * stride * item));
  const int direct = rows_are_pixels(p, per_in);
  int64_t g, o, at;
  if (bsk_conv_is_depthwise(p)) {
    int32_t *const plane = scratch;
    int32_t *const sums = (int32_t *)(void *)((uint8_t *)scratch + align64((size_t)in_hw * 4));
    const int64_t taps = p->kernel_h * p->kernel_w;
    for (o = 0; o < p->out_c; o++) {
      if (o % per_out == 0) bsk_load(plane, x, in, (size_t)(o / per_out * in_hw), (size_t)in_hw);
      bsk_depthwise_i32(p, plane, (const int32_t *)weights + o * taps, sums);
      bsk_requant_row(q, (size_t)o, sums, (size_t)out_hw, residual, res, (size_t)(o * out_hw), out, out_type,
                      (size_t)(o * out_hw));
    }
    return;
  }
  for (g = 0; g < p->groups; g++) {
    const uint8_t *x_group = (const uint8_t *)x + (size_t)(g * per_in * in_hw) * bsk_dtype_size(in);
    const uint8_t *w_group = (const uint8_t *)weights + (size_t)(g * per_out) * stride * item;
    channels_last(x_group, in, per_in, in_hw, kind, pixels);
    for (at = 0; at < out_hw; at += (int64_t)tile) {
      const size_t n = (size_t)(out_hw - at) < tile ? (size_t)(out_hw - at) : tile;
      const uint8_t *operand = direct ? pixels + (size_t)at * stride * item : rows;
      if (!direct) gather_rows(p, per_in, kind, pixels, at, n, stride, rows);
      gemm(kind, operand, n, w_group, (size_t)per_out, stride, acc, tile, 1);
      for (o = 0; o < per_out; o++) {
        const int64_t c = g * per_out + o;
        bsk_requant_row(q, (size_t)c, acc + (size_t)o * tile, n, residual, res, (size_t)(c * out_hw + at), out, out_type,
                        (size_t)(c * out_hw + at));
      }
    }
  }
}

void bsk_conv_f32(const bsk_conv *p, const float *x, const float *weights, const float *scale, const float *bias, float *out,
                  void *scratch) {
  const int64_t in_hw = p->in_h * p->in_w, out_hw = p->out_h * p->out_w;
  const int64_t per_in = p->in_c / p->groups, per_out = p->out_c / p->groups;
  const size_t stride = conv_stride(p), tile = tile_rows(stride, BSK_DOT_F32, (size_t)out_hw);
  float *const pixels = scratch;
  float *const rows = (float *)(void *)((uint8_t *)scratch + align64((size_t)(in_hw * per_in) * 4));
  float *const acc = (float *)(void *)((uint8_t *)rows + align64(tile * stride * 4));
  const int direct = rows_are_pixels(p, per_in);
  int64_t g, o, at;
  if (bsk_conv_is_depthwise(p)) {
    for (o = 0; o < p->out_c; o++) {
      bsk_depthwise_f32(p, x + o / per_out * in_hw, weights + o * p->kernel_h * p->kernel_w, out + o * out_hw);
      bsk_affine_f32(scale[o], bias[o], out + o * out_hw, out + o * out_hw, (size_t)out_hw);
    }
    return;
  }
  for (g = 0; g < p->groups; g++) {
    channels_last(x + g * per_in * in_hw, BSK_F32, per_in, in_hw, BSK_DOT_F32, pixels);
    for (at = 0; at < out_hw; at += (int64_t)tile) {
      const size_t n = (size_t)(out_hw - at) < tile ? (size_t)(out_hw - at) : tile;
      const float *operand = direct ? pixels + (size_t)at * stride : rows;
      if (!direct) gather_rows(p, per_in, BSK_DOT_F32, (const uint8_t *)pixels, at, n, stride, (uint8_t *)rows);
      bsk_gemm_f32(operand, n, weights + (size_t)(g * per_out) * stride, (size_t)per_out, stride, acc, tile, 1);
      for (o = 0; o < per_out; o++) {
        const int64_t c = g * per_out + o;
        bsk_affine_f32(scale[c], bias[c], acc + (size_t)o * tile, out + c * out_hw + at, n);
      }
    }
  }
}

/* ---- matrix product -------------------------------------------------------------------------------------------- */

size_t bsk_linear_scratch(int64_t rows, int64_t in_f, int64_t out_f, bsk_dot kind) {
  const size_t stride = bsk_row_stride((size_t)in_f), tile = tile_rows(stride, kind, (size_t)rows);
  return align64(tile * stride * bsk_dot_size(kind)) + align64(tile * (size_t)out_f * 4);
}

/* Copies n rows of in_f elements to padded rows of kind. */
static void pad_rows(const void *x, bsk_dtype in, size_t at, size_t n, size_t in_f, bsk_dot kind, size_t stride, void *rows) {
  const size_t item = bsk_dot_size(kind);
  int32_t block[BSK_CHUNK];
  size_t r, i, j, m;
  for (r = 0; r < n; r++) {
    uint8_t *row = (uint8_t *)rows + r * stride * item;
    memset(row + in_f * item, 0, (stride - in_f) * item);
    if (kind == BSK_DOT_F32) {
      memcpy(row, (const float *)x + (at + r) * in_f, in_f * item);
    } else if (kind == BSK_DOT_I32) {
      bsk_load((int32_t *)(void *)row, x, in, (at + r) * in_f, in_f);
    } else {
      for (i = 0; i < in_f; i += m) {
        m = in_f - i < BSK_CHUNK ? in_f - i : BSK_CHUNK;
        bsk_load(block, x, in, (at + r) * in_f + i, m);
        for (j = 0; j < m; j++) ((int16_t *)(void *)row)[i + j] = (int16_t)block[j];
      }
    }
  }
}

void bsk_linear_int(int64_t rows, int64_t in_f, int64_t out_f, bsk_dot kind, const void *x, bsk_dtype in, const void *weights,
                    const bsk_requant *q, const void *residual, bsk_dtype res, void *out, bsk_dtype out_type, void *scratch) {
  const size_t stride = bsk_row_stride((size_t)in_f), tile = tile_rows(stride, kind, (size_t)rows), width = (size_t)out_f;
  int32_t *const acc = (int32_t *)(void *)((uint8_t *)scratch + align64(tile * stride * bsk_dot_size(kind)));
  size_t at, r, n;
  for (at = 0; at < (size_t)rows; at += n) {
    n = (size_t)rows - at < tile ? (size_t)rows - at : tile;
    pad_rows(x, in, at, n, (size_t)in_f, kind, stride, scratch);
    gemm(kind, scratch, n, weights, width, stride, acc, 1, width);
    for (r = 0; r < n; r++)
      bsk_requant_channels(q, acc + r * width, width, residual, res, (at + r) * width, out, out_type, (at + r) * width);
  }
}

void bsk_linear_f32(int64_t rows, int64_t in_f, int64_t out_f, const float *x, const float *weights, const float *scale,
                    const float *bias, float *out, void *scratch) {
  const size_t stride = bsk_row_stride((size_t)in_f), tile = tile_rows(stride, BSK_DOT_F32, (size_t)rows);
  const size_t width = (size_t)out_f;
  float *const acc = (float *)(void *)((uint8_t *)scratch + align64(tile * stride * 4));
  size_t at, r, i, n;
  for (at = 0; at < (size_t)rows; at += n) {
    n = (size_t)rows - at < tile ? (size_t)rows - at : tile;
    pad_rows(x, BSK_F32, at, n, (size_t)in_f, BSK_DOT_F32, stride, scratch);
    bsk_gemm_f32(scratch, n, weights, width, stride, acc, 1, width);
    for (r = 0; r < n; r++)
      for (i = 0; i < width; i++) out[(at + r) * width + i] = acc[r * width + i] * scale[i] + bias[i];
  }
}
