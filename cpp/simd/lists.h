// What each kernel file gives to dispatch.cpp. Lists end with a null pointer; they are constants without constructors, because
// the files of an instruction set must not run or emit anything on processors without it (no std:: templates, no <vector>).
#ifndef BITSHIFT_SIMD_LISTS_H
#define BITSHIFT_SIMD_LISTS_H

#include "conv.h"
#include "linear.h"
#include "pixels.h"

namespace bitshift::simd {

#define BITSHIFT_SIMD_LISTS(isa)                          \
  namespace isa {                                         \
  extern const ConvKernel *const conv_kernels[];           /* conv_<isa>.cpp, the likely best first */ \
  extern const ConvKernel *const depthwise_kernels[];      /* depthwise_<isa>.cpp */ \
  extern const LinearKernel *const linear_kernels[];       /* linear_<isa>.cpp */ \
  extern const FloatKernel *const float_kernels[];         /* float_<isa>.cpp */ \
  extern const PixelKernels pixel_kernels;                 /* pixels_<isa>.cpp */ \
  }

BITSHIFT_SIMD_LISTS(avx512)
BITSHIFT_SIMD_LISTS(avx512vl)
BITSHIFT_SIMD_LISTS(avxvnni)
BITSHIFT_SIMD_LISTS(avx2)
BITSHIFT_SIMD_LISTS(neon)
BITSHIFT_SIMD_LISTS(portable)

#undef BITSHIFT_SIMD_LISTS

}  // namespace bitshift::simd
#endif
