// 8-bit convolution on maps with NEON (AArch64) and its dot product.
#define BITSHIFT_ISA_NAMESPACE neon

#include "lists.h"
#include "micro_neon.h"
#include "vec_neon.h"

#include "requant.inc.h"

#include "conv.inc.h"

#include "winograd.inc.h"

namespace bitshift::simd::neon {
namespace {

constexpr ConvKernel direct = {"direct", can_direct, scratch_direct, 1, run_direct};
constexpr ConvKernel winograd_1d = {"winograd-1d", can_winograd<1>, scratch_winograd<1>, 2, run_winograd<1>};
constexpr ConvKernel winograd_2d = {"winograd-2d", can_winograd<2>, scratch_winograd<2>, 2, run_winograd<2>};

}  // namespace

extern const ConvKernel *const conv_kernels[] = {&winograd_2d, &winograd_1d, &direct, nullptr};

}  // namespace bitshift::simd::neon
