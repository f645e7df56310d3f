/* model.h: a graph, written by bitshift 0.1.0 emit-c for 8-bit AVR (ATmega, ATtiny). */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MODEL_VERSION "0.1.0"
#define MODEL_HASH "91b3906c18174985" /* SHA-256 of the model file, its first 16 digits */

/* Bytes of working memory. It lies in a static array; with -DMODEL_ARENA=NAME the array
   `uint32_t NAME[MODEL_ARENA_BYTES / 4]`, which the firmware defines, is used instead. */
#define MODEL_ARENA_BYTES 0

#define MODEL_INPUTS 1
#define MODEL_OUTPUTS 1

/* x: [450], int8_t; q = floor(value * 2**FRAC + 0.5), limited to -128 to 127. */
#define MODEL_INPUT_SIZE 450
#define MODEL_INPUT_BYTES 450
#define MODEL_INPUT_SHAPE {450}
#define MODEL_INPUT_BITS 8
#define MODEL_INPUT_FRAC 4
#define MODEL_INPUT_SIGNED 1

/* y: [130], int32_t; stands for the value q * 2**-FRAC. */
#define MODEL_OUTPUT_SIZE 130
#define MODEL_OUTPUT_BYTES 520
#define MODEL_OUTPUT_SHAPE {130}
#define MODEL_OUTPUT_BITS 32
#define MODEL_OUTPUT_FRAC 0
#define MODEL_OUTPUT_SIGNED 1

/* Runs the network once: reads the inputs, writes the outputs, keeps nothing. Not reentrant: one arena. */
void model_run(const int8_t *x, int32_t *y);

/* 0 if the stored inputs give the stored outputs, else 1 + the number of the first that does not;
   in model_selftest.c, which a firmware may leave out. */
int model_selftest(void);

#ifdef __cplusplus
}
#endif
#endif
