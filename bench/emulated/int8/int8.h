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
    int block; /* int8_int4: words of weights whose sum fits a lane */
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

/* The control, four bits a weight: weights are words of eight, the first in the highest bits. Scratch: four words for
   each of kernel * kernel * in, which is a multiple of 8, as `width` is. */
void int8_int4(const struct int8_layer *layer, const int8_t *x, int8_t *y);

/* On AVR constants lie in flash. */
#ifdef __AVR__
#include <avr/pgmspace.h>
#define INT8_FLASH PROGMEM
#define int8_weight(at) ((int8_t)pgm_read_byte(at))
#define int8_offset(at) ((int32_t)pgm_read_dword(at))
#else
#define INT8_FLASH
#define int8_weight(at) (*(at))
#define int8_offset(at) (*(at))
#endif

#endif
