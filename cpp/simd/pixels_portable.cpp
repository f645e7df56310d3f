#define BITSHIFT_ISA_NAMESPACE portable
#include "pixels.inc.h"
