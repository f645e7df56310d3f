#define BITSHIFT_SIMD_SET neon
#include "pixels.inc.h"
