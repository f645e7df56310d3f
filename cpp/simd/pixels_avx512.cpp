#define BITSHIFT_ISA_NAMESPACE avx512
#include "pixels.inc.h"
