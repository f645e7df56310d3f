// Matrix products in AVX2.
#define BITSHIFT_ISA_NAMESPACE avx2

#include "linear_256.inc.h"
