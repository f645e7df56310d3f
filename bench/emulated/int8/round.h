/* Shift and saturation of a sum. */
#ifndef INT8_ROUND_H
#define INT8_ROUND_H

#include <stdint.h>

static inline int8_t int8_round(int32_t sum, int shift) {
    int32_t value = sum >> shift;
    if (__builtin_expect((uint32_t)(value + 128) > 255u, 0)) {
        value = (value >> 31) ^ 127;
    }
    return (int8_t)value;
}

#endif
