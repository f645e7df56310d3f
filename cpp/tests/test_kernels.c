/* Convolution and matrix product against loops that read like their definition, over random shapes, in buffers of the
 * exact size: under the address sanitizer a kernel that reads one element too many stops here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/portable.h"

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below) { /* xorshift: the same numbers on every machine */
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 33) % below;
}

static void *exact(size_t bytes) {
  void *p = malloc(bytes ? bytes : 1);
  if (!p) exit(2);
  return p;
}

static int32_t load(const void *x, bsk_dtype dtype, int64_t i) {
  switch (dtype) {
    case BSK_U8: return ((const uint8_t *)x)[i];
    case BSK_I8: return ((const int8_t *)x)[i];
    case BSK_I16: return ((const int16_t *)x)[i];
    default: return ((const int32_t *)x)[i];
  }
}

static void store(void *x, bsk_dtype dtype, int64_t i, int64_t v) {
  switch (dtype) {
    case BSK_U8: ((uint8_t *)x)[i] = (uint8_t)v; break;
    case BSK_I8: ((int8_t *)x)[i] = (int8_t)v; break;
    case BSK_I16: ((int16_t *)x)[i] = (int16_t)v; break;
    default: ((int32_t *)x)[i] = (int32_t)v;
  }
}

static int64_t floor_shift(int64_t v, int s) {
  const int64_t step = (int64_t)1 << s;
  return v >= 0 ? v / step : -((-v + step - 1) / step);
}

static const int64_t lowest[] = {0, -128, -32768, INT32_MIN}, highest[] = {255, 127, 32767, INT32_MAX};

static void *random_values(bsk_dtype dtype, int64_t n, uint32_t magnitude) {
  void *x = exact((size_t)n * bsk_dtype_size(dtype));
  int64_t i;
  for (i = 0; i < n; i++) {
    const int64_t v = dtype == BSK_U8 ? (int64_t)draw(256) : (int64_t)draw(2 * magnitude) - magnitude;
    store(x, dtype, i, v < lowest[dtype] ? lowest[dtype] : v > highest[dtype] ? highest[dtype] : v);
  }
  return x;
}

typedef struct {
  int32_t *mult;
  int64_t *offset;
  uint8_t *shift, *res_shift;
  bsk_requant q;
} vectors;

static vectors random_vectors(int64_t channels, bsk_dtype out, int narrow) {
  vectors v;
  int64_t c;
  v.mult = exact((size_t)channels * 4);
  v.offset = exact((size_t)channels * 8);
  v.shift = exact((size_t)channels);
  v.res_shift = exact((size_t)channels);
  for (c = 0; c < channels; c++) {
    v.mult[c] = narrow ? 1 + (int32_t)draw(3) : 1 + (int32_t)draw(65535);
    v.offset[c] = narrow ? (int64_t)draw(2000) - 1000 : ((int64_t)draw(1u << 31) - (1 << 30)) * 1024;
    v.shift[c] = (uint8_t)draw(narrow ? 40 : 62);
    v.res_shift[c] = (uint8_t)draw(narrow ? 4 : 20);
  }
  v.q.mult = v.mult;
  v.q.offset = v.offset;
  v.q.shift = v.shift;
  v.q.res_shift = v.res_shift;
  v.q.lo = (int32_t)lowest[out];
  v.q.hi = (int32_t)highest[out];
  v.q.narrow = narrow;
  return v;
}

static void free_vectors(vectors v) {
  free(v.mult);
  free(v.offset);
  free(v.shift);
  free(v.res_shift);
}

static int64_t rule4(const vectors *v, int64_t c, int64_t acc, int64_t residual) {
  const int64_t y = floor_shift(acc * v->mult[c] + v->offset[c] + residual * ((int64_t)1 << v->res_shift[c]), v->shift[c]);
  return y < v->q.lo ? v->q.lo : y > v->q.hi ? v->q.hi : y;
}

static void fail(const char *what, unsigned round, int64_t at, int64_t expected, int64_t got) {
  fprintf(stderr, "%s, round %u: element %lld is %lld, expected %lld\n", what, round, (long long)at, (long long)got,
          (long long)expected);
  exit(1);
}

static void test_conv(unsigned round) {
  bsk_conv p;
  bsk_dtype in = (bsk_dtype)draw(4), out_type = (bsk_dtype)draw(4), res = (bsk_dtype)draw(4);
  const int has_residual = draw(2) == 0, narrow = draw(2) == 0;
  int64_t o, oh, ow, c, kh, kw;
  p.groups = 1 + draw(3);
  p.in_c = p.groups * (1 + (draw(3) ? draw(9) : 0));
  p.out_c = p.groups * (1 + draw(6));
  p.kernel_h = 1 + draw(4);
  p.kernel_w = 1 + draw(4);
  p.stride_h = 1 + draw(3);
  p.stride_w = 1 + draw(3);
  p.dilation_h = 1 + draw(2);
  p.dilation_w = 1 + draw(2);
  p.pad_top = draw(4);
  p.pad_left = draw(4);
  p.in_h = (p.kernel_h - 1) * p.dilation_h + 1 + draw(6);
  p.in_w = (p.kernel_w - 1) * p.dilation_w + 1 + draw(20);
  if (round % 5 == 0) p.in_c = p.groups * 16, p.kernel_h = p.kernel_w = p.stride_h = p.stride_w = 1, p.pad_top = p.pad_left = 0;
  p.out_h = (p.in_h + p.pad_top + draw(3) - (p.kernel_h - 1) * p.dilation_h - 1) / p.stride_h + 1;
  p.out_w = (p.in_w + p.pad_left + draw(3) - (p.kernel_w - 1) * p.dilation_w - 1) / p.stride_w + 1;
  const int64_t per_in = p.in_c / p.groups, per_out = p.out_c / p.groups, taps = p.kernel_h * p.kernel_w;
  const int depthwise = bsk_conv_is_depthwise(&p);
  const bsk_dot kind = depthwise || in == BSK_I32 ? BSK_DOT_I32 : BSK_DOT_I16;
  const size_t stride = depthwise ? (size_t)taps : bsk_row_stride((size_t)(taps * per_in));
  const int64_t out_n = p.out_c * p.out_h * p.out_w;
  void *x = random_values(in, p.in_c * p.in_h * p.in_w, narrow ? 100 : 2000), *residual = random_values(res, out_n, 100);
  int32_t *w = exact((size_t)(p.out_c * per_in * taps) * 4);
  uint8_t *rows = exact((size_t)p.out_c * stride * bsk_dot_size(kind));
  void *y = exact((size_t)out_n * bsk_dtype_size(out_type)), *scratch = exact(bsk_conv_scratch(&p, kind));
  vectors v = random_vectors(p.out_c, out_type, narrow);
  memset(rows, 0, (size_t)p.out_c * stride * bsk_dot_size(kind));
  for (o = 0; o < p.out_c; o++)
    for (c = 0; c < per_in; c++)
      for (kh = 0; kh < taps; kh++) {
        const int32_t level = (int32_t)draw(17) - 8;
        const size_t at = (size_t)o * stride + (size_t)(kh * per_in + c);
        w[(o * per_in + c) * taps + kh] = level;
        if (kind == BSK_DOT_I16)
          ((int16_t *)(void *)rows)[at] = (int16_t)level;
        else
          ((int32_t *)(void *)rows)[at] = level;
      }
  bsk_conv_int(&p, kind, x, in, rows, &v.q, has_residual ? residual : NULL, res, y, out_type, scratch);
  for (o = 0; o < p.out_c; o++)
    for (oh = 0; oh < p.out_h; oh++)
      for (ow = 0; ow < p.out_w; ow++) {
        const int64_t at = (o * p.out_h + oh) * p.out_w + ow;
        int64_t acc = 0, expected;
        for (c = 0; c < per_in; c++)
          for (kh = 0; kh < p.kernel_h; kh++)
            for (kw = 0; kw < p.kernel_w; kw++) {
              const int64_t ih = oh * p.stride_h - p.pad_top + kh * p.dilation_h, iw = ow * p.stride_w - p.pad_left + kw * p.dilation_w;
              if (ih < 0 || ih >= p.in_h || iw < 0 || iw >= p.in_w) continue;
              acc += (int64_t)load(x, in, ((o / per_out * per_in + c) * p.in_h + ih) * p.in_w + iw) *
                     w[((o * per_in + c) * p.kernel_h + kh) * p.kernel_w + kw];
            }
        expected = rule4(&v, o, acc, has_residual ? load(residual, res, at) : 0);
        if (expected != load(y, out_type, at)) fail("conv", round, at, expected, load(y, out_type, at));
      }
  free(x);
  free(residual);
  free(w);
  free(rows);
  free(y);
  free(scratch);
  free_vectors(v);
}

static void test_linear(unsigned round) {
  const int64_t rows = 1 + draw(70), in_f = 1 + draw(600), out_f = 1 + draw(11);
  const bsk_dtype in = (bsk_dtype)draw(4), out_type = (bsk_dtype)draw(4);
  const bsk_dot kind = in == BSK_I32 ? BSK_DOT_I32 : BSK_DOT_I16;
  const size_t stride = bsk_row_stride((size_t)in_f);
  void *x = random_values(in, rows * in_f, 100), *y = exact((size_t)(rows * out_f) * bsk_dtype_size(out_type));
  uint8_t *w = exact((size_t)out_f * stride * bsk_dot_size(kind));
  void *scratch = exact(bsk_linear_scratch(rows, in_f, out_f, kind));
  vectors v = random_vectors(out_f, out_type, draw(2) == 0);
  int64_t r, o, i;
  memset(w, 0, (size_t)out_f * stride * bsk_dot_size(kind));
  for (o = 0; o < out_f; o++)
    for (i = 0; i < in_f; i++) {
      const int32_t level = (int32_t)draw(17) - 8;
      if (kind == BSK_DOT_I16)
        ((int16_t *)(void *)w)[(size_t)o * stride + (size_t)i] = (int16_t)level;
      else
        ((int32_t *)(void *)w)[(size_t)o * stride + (size_t)i] = level;
    }
  bsk_linear_int(rows, in_f, out_f, kind, x, in, w, &v.q, NULL, BSK_U8, y, out_type, scratch);
  for (r = 0; r < rows; r++)
    for (o = 0; o < out_f; o++) {
      int64_t acc = 0, expected;
      for (i = 0; i < in_f; i++)
        acc += (int64_t)load(x, in, r * in_f + i) * load(w, kind == BSK_DOT_I16 ? BSK_I16 : BSK_I32, o * (int64_t)stride + i);
      expected = rule4(&v, o, acc, 0);
      if (expected != load(y, out_type, r * out_f + o)) fail("linear", round, r * out_f + o, expected, load(y, out_type, r * out_f + o));
    }
  free(x);
  free(y);
  free(w);
  free(scratch);
  free_vectors(v);
}

/* floor as a loop would do it, without the C library: v is within the int32 range. */
static int64_t floor_of(double v) {
  const int64_t whole = (int64_t)v;
  return whole - (v < (double)whole);
}

/* Every grid from 2^-40 to 2^40 with floats of any bits, and floats next to where rounding and saturation change. */
static void test_quantize(unsigned round) {
  static const bsk_dtype types[] = {BSK_U8, BSK_I8, BSK_I16, BSK_I32};
  const bsk_dtype type = types[draw(4)];
  const int frac = (int)draw(81) - 40, floor_only = (int)draw(2);
  const int32_t hi = type == BSK_U8 ? 255 : type == BSK_I8 ? 127 : type == BSK_I16 ? 32767 : INT32_MAX;
  const int32_t lo = type == BSK_U8 ? 0 : -hi - (int32_t)draw(2);
  const double factor = frac < 0 ? 1.0 / (double)(INT64_C(1) << -frac) : (double)(INT64_C(1) << frac), half = floor_only ? 0 : 0.5;
  const size_t n = 300;
  float *x = exact(n * sizeof *x);
  void *out = exact(n * bsk_dtype_size(type));
  size_t i;
  for (i = 0; i < n; i++) {
    uint32_t bits = draw(UINT32_MAX);
    if (draw(2)) { /* next to a multiple of half a step */
      const float at = (float)(((double)(int32_t)draw(700) - 350) * (round % 2 ? 0.5 : (double)hi / 256) / factor);
      memcpy(&bits, &at, 4);
      bits += draw(3) - 1;
    }
    memcpy(&x[i], &bits, 4);
  }
  bsk_quantize(factor, half, lo, hi, x, out, type, n);
  for (i = 0; i < n; i++) {
    const double v = (double)x[i] * factor + half;
    const int64_t expected = v != v ? 0 : v >= hi ? hi : v <= lo ? lo : floor_of(v);
    if (load(out, type, (int64_t)i) != expected) {
      printf("quantize: type %d frac %d half %g: %.9g gives %d, not %lld\n", (int)type, frac, half, (double)x[i],
             (int)load(out, type, (int64_t)i), (long long)expected);
      exit(1);
    }
  }
  free(x);
  free(out);
}

int main(void) {
  unsigned round;
  for (round = 0; round < 400; round++) {
    test_conv(round);
    test_linear(round);
    test_quantize(round);
  }
  printf("kernels: ok\n");
  return 0;
}
