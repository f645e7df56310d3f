// Matrix products with the 256-bit dot product of AVX-512 VNNI and VL (EVEX encoding).
#define BITSHIFT_ISA_NAMESPACE avx512vl
#define BITSHIFT_DPBUSD _mm256_dpbusd_epi32

#include "linear_256.inc.h"
