#define BITSHIFT_ISA_NAMESPACE avx2
#include "pixels.inc.h"
