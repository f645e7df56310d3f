// The fast kernels that this build holds, by instruction set. Each family is compiled in files of its own with its own flags
// (conv_<isa>.cpp, linear_<isa>.cpp, pixels_<isa>.cpp) and all code in them lives in the namespace of its instruction set, so
// that the linker never mixes them. dispatch.cpp lists the sets this processor can run, the best first.
#ifndef BITSHIFT_SIMD_ISA_H
#define BITSHIFT_SIMD_ISA_H

#include <vector>

#include "conv.h"
#include "linear.h"
#include "pixels.h"

namespace bitshift::simd {

struct Isa {
  const char *name;                 // "avx512", "avx512vl", "avxvnni", "avx2", "neon": what BITSHIFT_ISA and options name
  int limit;                        // Weights::limit that its kernels need
  std::vector<const ConvKernel *> conv;      // candidates, a likely best first
  std::vector<const LinearKernel *> linear;
  std::vector<const FloatKernel *> floats;
  const PixelKernels *pixels;
};

// Sets that this processor runs, the best first; empty where only the portable kernels serve.
const std::vector<Isa> &isas();

}  // namespace bitshift::simd
#endif
