// 8-bit convolution on maps with the 256-bit dot product of AVX-VNNI (VEX encoding).
#define BITSHIFT_ISA_NAMESPACE avxvnni
#define BITSHIFT_DPBUSD _mm256_dpbusd_avx_epi32

#include "conv_256.inc.h"
