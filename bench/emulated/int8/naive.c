#include "int8.h"
#include "round.h"

void int8_naive(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const int pad = layer->kernel / 2;
    for (int row = 0; row < layer->height; row++) {
        for (int column = 0; column < layer->width; column++) {
            for (int o = 0; o < layer->out; o++) {
                int32_t sum = int8_offset(layer->offset + o);
                for (int i = 0; i < layer->kernel; i++) {
                    for (int j = 0; j < layer->kernel; j++) {
                        const int at_row = row + i - pad, at_column = column + j - pad;
                        if (at_row < 0 || at_row >= layer->height || at_column < 0 || at_column >= layer->width) {
                            continue;
                        }
                        const int8_t *from = x + (at_row * layer->width + at_column) * layer->in;
                        const int8_t *weights =
                            layer->weights + ((o * layer->kernel + i) * layer->kernel + j) * layer->in;
                        for (int c = 0; c < layer->in; c++) {
                            sum += int8_weight(weights + c) * from[c];
                        }
                    }
                }
                *y++ = int8_round(sum, layer->shift);
            }
        }
    }
}

void int8_naive_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y) {
    const int pad = layer->kernel / 2;
    for (int row = 0; row < layer->height; row++) {
        for (int column = 0; column < layer->width; column++) {
            for (int c = 0; c < layer->in; c++) {
                int32_t sum = int8_offset(layer->offset + c);
                for (int i = 0; i < layer->kernel; i++) {
                    for (int j = 0; j < layer->kernel; j++) {
                        const int at_row = row + i - pad, at_column = column + j - pad;
                        if (at_row >= 0 && at_row < layer->height && at_column >= 0 && at_column < layer->width) {
                            sum += int8_weight(layer->weights + (i * layer->kernel + j) * layer->in + c) *
                                   x[(at_row * layer->width + at_column) * layer->in + c];
                        }
                    }
                }
                *y++ = int8_round(sum, layer->shift);
            }
        }
    }
}
