// 8-bit convolution on maps with 256-bit registers. Included by conv_<isa>.cpp behind BITSHIFT_ISA_NAMESPACE (and BITSHIFT_DPBUSD).
#include "micro_avx2.h"
#include "vec_avx2.h"

#include "conv_kernels.inc.h"
