#define BITSHIFT_SIMD_SET avx512
#include "pixels.inc.h"
