// 8-bit convolution on maps: the layer as kernels read it, and the candidates that a layer is measured with.
#ifndef BITSHIFT_SIMD_CONV_H
#define BITSHIFT_SIMD_CONV_H

#include "common.h"

namespace bitshift::simd {

struct ConvLayer {
  bsk_conv g{};
  Map in, out, res;  // out.channels = res.channels = g.out_c
  Weights w;
  Requant q;
  std::int32_t in_lo = 0, in_hi = 0;  // range of the input's integers, 0 included (padding)
  std::int64_t acc_bound = 0;         // of |true sum|
  // Largest magnitude of an exact Winograd weight, 2 G g (1-d, along the width) and 4 G g G^T (2-d); 0: not a 3x3 stride 1
  // dilation 1 groups 1 layer with in_c % 4 == 0.
  int wino1_max = 0, wino2_max = 0;
  const std::int32_t *tap_sums = nullptr;  // PackedWeights::tap_sums.data(); null where that is empty
};

// A way to compute a layer. `run` is called by every thread of the call for each phase in turn; all threads finish a phase
// before any begins the next.
struct ConvKernel {
  const char *name;  // "direct", "winograd-1d", "winograd-2d", "depthwise"
  bool (*can)(const ConvLayer &layer);
  std::size_t (*scratch)(const ConvLayer &layer, std::int64_t samples, int threads);  // bytes, 64-byte aligned parts
  int phases;
  void (*run)(const ConvLayer &layer, const Task &task, int phase);
};

}  // namespace bitshift::simd
#endif
