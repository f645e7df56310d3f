#define BITSHIFT_SIMD_SET portable
#include "pixels.inc.h"
