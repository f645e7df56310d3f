// 8-bit convolution on maps with NEON (AArch64) and its dot product.
#define BITSHIFT_ISA_NAMESPACE neon

#include "micro_neon.h"
#include "vec_neon.h"

#include "conv_kernels.inc.h"
