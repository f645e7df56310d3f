// 8-bit convolution on maps in AVX-512 (VNNI, VBMI).
#define BITSHIFT_ISA_NAMESPACE avx512

#include "micro_avx512.h"
#include "vec_avx512.h"

#include "conv_kernels.inc.h"
