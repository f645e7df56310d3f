/* The window of a pixel as one column of values, zero outside the image. */
#ifndef INT8_COLUMNS_H
#define INT8_COLUMNS_H

#include "int8.h"

struct int8_windows {
    int row_pitch, to_corner; /* from a pixel to the one below it, and to the first of its window */
};

static inline struct int8_windows int8_windows(const struct int8_layer *layer) {
    const int pitch = layer->width * layer->in;
    return (struct int8_windows){pitch, (layer->kernel / 2) * (pitch + layer->in)};
}

/* `at` is the pixel; no index is multiplied, which cores without a multiplier would pay for. */
static inline void int8_column(const struct int8_layer *layer, struct int8_windows windows, const int8_t *at, int row,
                               int column, void (*copy)(void *, const int8_t *, int), void *to, int size) {
    const int pad = layer->kernel / 2;
    const int8_t *line = at - windows.to_corner;
    for (int i = row - pad; i <= row + pad; i++, line += windows.row_pitch) {
        const int8_t *from = line;
        for (int j = column - pad; j <= column + pad; j++, from += layer->in) {
            const int inside = i >= 0 && i < layer->height && j >= 0 && j < layer->width;
            copy(to, inside ? from : 0, layer->in);
            to = (char *)to + size;
        }
    }
}

#endif
