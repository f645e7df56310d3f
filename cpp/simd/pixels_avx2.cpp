#define BITSHIFT_SIMD_SET avx2
#include "pixels.inc.h"
