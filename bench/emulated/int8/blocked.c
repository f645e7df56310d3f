#include "columns.h"
#include "round.h"

#ifdef __ARM_FEATURE_SIMD32
#include <arm_acle.h>

/* Columns hold 16-bit values in the order 0, 2, 1, 3 of every four, which is how sxtb16 spreads a word of weights. */
typedef int16_t value;

static inline int16x2_t odd(uint32_t four) {
    int16x2_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(four));
    return pair;
}

static void copy(void *to, const int8_t *from, int count) {
    uint32_t *out = to;
    for (; count; count -= 4) {
        uint32_t four = 0;
        if (from) {
            __builtin_memcpy(&four, from, 4);
            from += 4;
        }
        *out++ = (uint32_t)__sxtb16(four);
        *out++ = (uint32_t)odd(four);
    }
}

static inline uint32_t word(const void *from) {
    uint32_t bits;
    __builtin_memcpy(&bits, from, 4);
    return bits;
}

static void two_by_two(const int8_t *w0, const int8_t *w1, const value *a, const value *b, int count, int32_t *sums) {
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    const int8_t *end = w0 + count;
    do {
        const uint32_t a0 = word(a), a1 = word(a + 2), b0 = word(b), b1 = word(b + 2), u = word(w0), v = word(w1);
        const int16x2_t u0 = __sxtb16(u), u1 = odd(u), v0 = __sxtb16(v), v1 = odd(v);
        a += 4, b += 4, w0 += 4, w1 += 4;
        s0 = __smlad(u0, (int16x2_t)a0, s0), s1 = __smlad(v0, (int16x2_t)a0, s1);
        s2 = __smlad(u0, (int16x2_t)b0, s2), s3 = __smlad(v0, (int16x2_t)b0, s3);
        s0 = __smlad(u1, (int16x2_t)a1, s0), s1 = __smlad(v1, (int16x2_t)a1, s1);
        s2 = __smlad(u1, (int16x2_t)b1, s2), s3 = __smlad(v1, (int16x2_t)b1, s3);
    } while (w0 != end);
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}
#else
typedef int8_t value;

static void copy(void *to, const int8_t *from, int count) {
    int8_t *out = to;
    while (count--) {
        *out++ = from ? *from++ : 0;
    }
}

static void two_by_two(const int8_t *w0, const int8_t *w1, const value *a, const value *b, int count, int32_t *sums) {
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int i = 0; i < count; i++) {
        const int32_t u = w0[i], v = w1[i], p = a[i], q = b[i];
        s0 += u * p, s1 += v * p, s2 += u * q, s3 += v * q;
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}
#endif

/* One pixel against four channels at a time, or two where registers are few. */
static void single(const struct int8_layer *layer, const value *column, int count, int8_t *y) {
    const int8_t *w0 = layer->weights;
#ifdef __ARM_FEATURE_SIMD32
    for (int o = 0; o < layer->out; o += 4, w0 += 3 * count) {
        const int8_t *w1 = w0 + count, *w2 = w1 + count, *w3 = w2 + count, *end = w1;
        const value *a = column;
        int32_t s0 = layer->offset[o], s1 = layer->offset[o + 1], s2 = layer->offset[o + 2], s3 = layer->offset[o + 3];
        do {
            const int16x2_t a0 = (int16x2_t)word(a), a1 = (int16x2_t)word(a + 2);
            const uint32_t p = word(w0), q = word(w1), r = word(w2), s = word(w3);
            a += 4, w0 += 4, w1 += 4, w2 += 4, w3 += 4;
            s0 = __smlad(odd(p), a1, __smlad(__sxtb16(p), a0, s0)), s1 = __smlad(odd(q), a1, __smlad(__sxtb16(q), a0, s1));
            s2 = __smlad(odd(r), a1, __smlad(__sxtb16(r), a0, s2)), s3 = __smlad(odd(s), a1, __smlad(__sxtb16(s), a0, s3));
        } while (w0 != end);
        *y++ = int8_round(s0, layer->shift), *y++ = int8_round(s1, layer->shift);
        *y++ = int8_round(s2, layer->shift), *y++ = int8_round(s3, layer->shift);
    }
#else
    for (int o = 0; o < layer->out; o += 2, w0 += 2 * count) {
        const int8_t *w1 = w0 + count;
        int32_t s0 = layer->offset[o], s1 = layer->offset[o + 1];
        for (int i = 0; i < count; i++) {
            const int32_t p = column[i];
            s0 += w0[i] * p, s1 += w1[i] * p;
        }
        *y++ = int8_round(s0, layer->shift), *y++ = int8_round(s1, layer->shift);
    }
#endif
}

void int8_blocked(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const int count = layer->kernel * layer->kernel * layer->in, pixels = layer->height * layer->width;
    value *columns = layer->scratch;
    const int size = layer->in * (int)sizeof *columns;
    const struct int8_windows windows = int8_windows(layer);
    int row = 0, column = 0;
    for (int pixel = 0; pixel < pixels; pixel += 2) {
        const int paired = pixel + 1 < pixels;
        for (int side = 0; side <= paired; side++) {
            int8_column(layer, windows, x, row, column, copy, columns + side * count, size);
            x += layer->in;
            if (++column == layer->width) {
                column = 0, row++;
            }
        }
        if (!paired) {
            single(layer, columns, count, y);
            return;
        }
        const int8_t *weights = layer->weights;
        for (int o = 0; o < layer->out; o += 2, weights += 2 * count) {
            int32_t sums[4] = {layer->offset[o], layer->offset[o + 1], layer->offset[o], layer->offset[o + 1]};
            two_by_two(weights, weights + count, columns, columns + count, count, sums);
            y[o] = int8_round(sums[0], layer->shift);
            y[o + 1] = int8_round(sums[1], layer->shift);
            y[o + layer->out] = int8_round(sums[2], layer->shift);
            y[o + layer->out + 1] = int8_round(sums[3], layer->shift);
        }
        y += 2 * layer->out;
    }
}

void int8_blocked_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const int wide = layer->width + 2;
    int8_t *plane = layer->scratch;
    for (int i = 0; i < (layer->height + 2) * wide; i++) {
        plane[i] = 0;
    }
    for (int c = 0; c < layer->in; c++) {
        const int8_t *from = x + c, *w = layer->weights + c;
        int8_t *to = plane + wide + 1, *out = y + c;
        for (int row = 0; row < layer->height; row++, to += 2) {
            for (int column = 0; column < layer->width; column++, from += layer->in) {
                *to++ = *from;
            }
        }
        const int n = layer->in;
        const int32_t w0 = w[0], w1 = w[n], w2 = w[2 * n], w3 = w[3 * n], w4 = w[4 * n], w5 = w[5 * n], w6 = w[6 * n],
                      w7 = w[7 * n], w8 = w[8 * n];
        const int8_t *at = plane;
        for (int row = 0; row < layer->height; row++, at += 2) {
            for (int column = 0; column < layer->width; column++, at++, out += n) {
                const int8_t *below = at + wide, *last = below + wide;
                const int32_t sum = layer->offset[c] + w0 * at[0] + w1 * at[1] + w2 * at[2] + w3 * below[0] +
                                    w4 * below[1] + w5 * below[2] + w6 * last[0] + w7 * last[1] + w8 * last[2];
                *out = int8_round(sum, layer->shift);
            }
        }
    }
}
