/*
 * The int8 baseline: layers with 8-bit weights, rounded by a shift, which is cheaper than the 32-bit multiplication of
 * TFLite's rule and so in the baseline's favour. Activations are channels last, weights (out, row, column, in), padding
 * is "same", stride 1; a fully connected layer is a 1x1 convolution of one pixel.
 */
#ifndef INT8_H
#define INT8_H

#include <stdint.h>

struct int8_layer {
    int height, width, in, out, kernel, shift;
    const int8_t *weights; /* depthwise: (row, column, channel) */
    const int32_t *offset; /* half a step included */
    void *scratch;
};

/* The loops as one writes them first. */
void int8_naive(const struct int8_layer *layer, const int8_t *x, int8_t *y);
void int8_naive_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y);

/* Columns of two pixels against two channels at a time (one pixel against four for a single one); on cores with SIMD32
   two products an instruction. Scratch: 2 * kernel * kernel * in int16_t. `in` is a multiple of 4, `out` of 4. */
void int8_blocked(const struct int8_layer *layer, const int8_t *x, int8_t *y);
/* A channel's plane with its border, nine products a pixel written out. Scratch: (height + 2) * (width + 2) bytes. */
void int8_blocked_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y);

/* For cores without a multiplier: a*b = q(a+b) - q(a-b), q(n) = floor(n*n/4) from a table. */
void int8_quarter(const struct int8_layer *layer, const int8_t *x, int8_t *y);
void int8_quarter_depthwise(const struct int8_layer *layer, const int8_t *x, int8_t *y);

#endif
