/* Inputs from the development machine and outputs to it, and marks between which executed instructions are counted. */
#ifndef FEED_H
#define FEED_H

#include <stdint.h>

/* 1 and the next `count` bytes of the inputs, or 0 at their end. */
uint8_t feed_read(void *to, uint16_t count);
void feed_write(const void *from, uint16_t count);

/* What runs behind region_begin() is counted until region_end(). */
void region_begin(void);
void region_end(void);

#endif
