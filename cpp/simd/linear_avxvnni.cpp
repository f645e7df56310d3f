// Matrix products with the 256-bit dot product of AVX-VNNI (VEX encoding).
#define BITSHIFT_ISA_NAMESPACE avxvnni
#define BITSHIFT_DPBUSD _mm256_dpbusd_avx_epi32

#include "linear_256.inc.h"
