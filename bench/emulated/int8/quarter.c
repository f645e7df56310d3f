#include "columns.h"
#include "round.h"

#ifdef INT8_TABLE_IN_FLASH
#define table int8_squares
#define read_table pgm_read_word
extern const uint16_t table[512]; /* of the driver, for cores whose RAM it would fill */

static void fill(void) {}
#else
#define read_table(at) (*(at))
static uint16_t table[512]; /* floor(n*n/4) for n = -256 to 255 */

static void fill(void) {
    uint32_t square = 0; /* n*n grows by 2n + 1 */
    for (int n = 0; n <= 256; n++) {
        if (n < 256) {
            table[256 + n] = (uint16_t)(square >> 2);
        }
        table[256 - n] = (uint16_t)(square >> 2);
        square += (uint32_t)(n + n + 1);
    }
}
#endif

/* Columns hold places in the table, so that a product is two additions of the doubled weight and two reads. */
static void copy(void *to, const int8_t *from, int count) {
    const uint16_t **out = to;
    while (count--) {
        *out++ = table + 256 + (from ? *from++ : 0);
    }
}

/* `twice` is two times the weight: the table's elements have two bytes. */
static inline int32_t product(const uint16_t *place, int twice) {
    const char *middle = (const char *)place;
    return (int32_t)read_table((const uint16_t *)(middle + twice)) -
           (int32_t)read_table((const uint16_t *)(middle - twice));
}

static int sizes(const struct int8_layer *layer) {
    int count = 0;
    for (int i = 0; i < layer->kernel; i++) {
        for (int j = 0; j < layer->kernel; j++) {
            count += layer->in;
        }
    }
    return count;
}

void int8_quarter(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    static int filled;
    if (!filled) {
        filled = 1;
        fill();
    }
    const struct int8_windows windows = int8_windows(layer);
    const int count = sizes(layer), size = layer->in * (int)sizeof(uint16_t *);
    const uint16_t **first = layer->scratch, **second = first + count;
    int row = 0, column = 0;
    while (row < layer->height) {
        int paired = 0;
        for (const uint16_t **side = first; paired < 2 && row < layer->height; side = second, paired++) {
            int8_column(layer, windows, x, row, column, copy, side, size);
            x += layer->in;
            if (++column == layer->width) {
                column = 0, row++;
            }
        }
        const int8_t *w = layer->weights;
        const uint16_t *const *end = first + count;
        if (paired == 2) {
            int8_t *other = y + layer->out;
            for (int o = 0; o < layer->out; o++) {
                int32_t s0 = int8_offset(layer->offset + o), s1 = s0;
                const uint16_t *const *a = first, *const *b = second;
                do {
                    const int u = 2 * int8_weight(w), v = 2 * int8_weight(w + 1);
                    s0 += product(a[0], u), s1 += product(b[0], u);
                    s0 += product(a[1], v), s1 += product(b[1], v);
                    w += 2, a += 2, b += 2;
                } while (a != end);
                *y++ = int8_round(s0, layer->shift), *other++ = int8_round(s1, layer->shift);
            }
            y = other;
            continue;
        }
        for (int o = 0; o < layer->out; o += 2, w += count) {
            const int8_t *next = w + count;
            int32_t s0 = int8_offset(layer->offset + o), s1 = int8_offset(layer->offset + o + 1);
            const uint16_t *const *a = first;
            do {
                s0 += product(a[0], 2 * int8_weight(w)), s1 += product(a[0], 2 * int8_weight(next));
                s0 += product(a[1], 2 * int8_weight(w + 1)), s1 += product(a[1], 2 * int8_weight(next + 1));
                w += 2, next += 2, a += 2;
            } while (a != end);
            *y++ = int8_round(s0, layer->shift), *y++ = int8_round(s1, layer->shift);
        }
    }
}

void int8_quarter_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const int wide = layer->width + 2, n = layer->in;
    const uint16_t **plane = layer->scratch, **end = plane;
    fill();
    for (int i = 0; i < layer->height + 2; i++) {
        for (int j = 0; j < wide; j++) {
            *end++ = table + 256;
        }
    }
    for (int c = 0; c < n; c++) {
        const int8_t *from = x + c, *w = layer->weights + c;
        const uint16_t **to = plane + wide + 1, **at = plane;
        int8_t *out = y + c;
        int twice[9];
        for (int i = 0; i < 9; i++, w += n) {
            twice[i] = 2 * int8_weight(w);
        }
        for (int row = 0; row < layer->height; row++, to += 2) {
            for (int column = 0; column < layer->width; column++, from += n) {
                *to++ = table + 256 + *from;
            }
        }
        for (int row = 0; row < layer->height; row++, at += 2) {
            for (int column = 0; column < layer->width; column++, at++, out += n) {
                const uint16_t **below = at + wide, **last = below + wide;
                int32_t sum = int8_offset(layer->offset + c);
                sum += product(at[0], twice[0]) + product(at[1], twice[1]) + product(at[2], twice[2]);
                sum += product(below[0], twice[3]) + product(below[1], twice[4]) + product(below[2], twice[5]);
                sum += product(last[0], twice[6]) + product(last[1], twice[7]) + product(last[2], twice[8]);
                *out = int8_round(sum, layer->shift);
            }
        }
    }
}
