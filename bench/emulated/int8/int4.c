/* The control: the lanes of our packed kernels with a multiplication in place of the shift, and four bits a weight. */
#include "columns.h"
#include "round.h"

/* Four pairs of pixels, p and p + 4, against `count` words of eight weights: one product a pair. Optimised as our own
   straight-line code is: short, additions in their order, which costs a Cortex-M0 half the cycles of -O2. */
static __attribute__((noinline, optimize("Os", "no-tree-reassoc"))) void products(const uint32_t *cells, const uint32_t *codes,
                                                                             int count, uint32_t *sums) {
    uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    const uint32_t *const end = codes + count;
    do {
        uint32_t word = *codes++;
#define ONE                                                        \
    {                                                              \
        const uint32_t weight = (uint32_t)((int32_t)word >> 28);   \
        word <<= 4;                                                \
        s0 += cells[0] * weight, s1 += cells[1] * weight;          \
        s2 += cells[2] * weight, s3 += cells[3] * weight;          \
        cells += 4;                                                \
        __asm__("" : "+r"(word), "+r"(cells));                     \
    }
        ONE ONE ONE ONE ONE ONE ONE ONE
#undef ONE
    } while (codes != end);
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

static int inside(int at, int length) { return at >= 0 && at < length; }

/* The windows of eight pixels from `column` on, every cell of a window four words. */
static void fill(const struct int8_layer *layer, struct int8_windows windows, const int8_t *at, int row, int column,
                 uint32_t *cells) {
    const int pad = layer->kernel / 2, apart = 4 * layer->in;
    const int8_t *line = at - windows.to_corner;
    for (int i = row - pad; i <= row + pad; i++, line += windows.row_pitch) {
        const int8_t *from = line;
        for (int j = column - pad; j <= column + pad; j++, from += layer->in, cells += apart) {
            const int8_t *pixel = from;
            for (int p = 0; p < 4; p++, pixel += layer->in) {
                const int low = inside(i, layer->height) && inside(j + p, layer->width);
                const int high = inside(i, layer->height) && inside(j + p + 4, layer->width);
                static const int8_t zero;
                const int8_t *a = low ? pixel : &zero, *b = high ? pixel + apart : &zero;
                uint32_t *to = cells + p;
                for (int c = layer->in; c; c--, a += low, b += high, to += 4) {
                    *to = (uint32_t)*a + ((uint32_t)*b << 16);
                }
            }
        }
    }
}

void int8_int4(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const struct int8_windows windows = int8_windows(layer);
    const int words = layer->kernel * layer->kernel * layer->in / 8;
    uint32_t *cells = layer->scratch;
    for (int row = 0; row < layer->height; row++) {
        for (int column = 0; column < layer->width; column += 8, x += 8 * layer->in, y += 8 * layer->out) {
            fill(layer, windows, x, row, column, cells);
            const uint32_t *codes = (const uint32_t *)(const void *)layer->weights;
            for (int o = 0; o < layer->out; o++) {
                int32_t total[8];
                for (int p = 0; p < 8; p++) {
                    total[p] = layer->offset[o];
                }
                const uint32_t *from = cells;
                for (int left = words, count; left; left -= count, codes += count, from += 32 * count) {
                    uint32_t sums[4];
                    count = left < layer->block ? left : layer->block;
                    products(from, codes, count, sums);
                    for (int p = 0; p < 4; p++) {
                        total[p] += (int16_t)sums[p];
                        total[p + 4] += (int32_t)(sums[p] + 0x8000u) >> 16;
                    }
                }
                int8_t *out = y + o;
                for (int p = 0; p < 8; p++, out += layer->out) {
                    *out = int8_round(total[p], layer->shift);
                }
            }
        }
    }
}
