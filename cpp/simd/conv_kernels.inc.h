// The convolution kernels of an instruction set: included by its file behind BITSHIFT_ISA_NAMESPACE, micro_<isa>.h and vec_<isa>.h.
#include "lists.h"

#include "requant.inc.h"

#include "conv.inc.h"

#include "winograd.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

constexpr ConvKernel direct = {"direct", can_direct, scratch_direct, 1, run_direct};
constexpr ConvKernel winograd_1d = {"winograd-1d", can_winograd<1>, scratch_winograd<1>, 2, run_winograd<1>};
constexpr ConvKernel winograd_2d = {"winograd-2d", can_winograd<2>, scratch_winograd<2>, 2, run_winograd<2>};

}  // namespace

extern const ConvKernel *const conv_kernels[] = {&winograd_2d, &winograd_1d, &direct, nullptr};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
