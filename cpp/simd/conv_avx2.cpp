// 8-bit convolution on maps in AVX2.
#define BITSHIFT_ISA_NAMESPACE avx2

#include "conv_256.inc.h"
