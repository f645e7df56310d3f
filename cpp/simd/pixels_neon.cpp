#define BITSHIFT_ISA_NAMESPACE neon
#include "pixels.inc.h"
