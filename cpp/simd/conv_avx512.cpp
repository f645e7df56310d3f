// 8-bit convolution on maps in AVX-512 (VNNI, VBMI).
#define BITSHIFT_ISA_NAMESPACE avx512

#include "lists.h"
#include "micro_avx512.h"
#include "vec_avx512.h"

#include "requant.inc.h"

#include "conv.inc.h"

namespace bitshift::simd::avx512 {
namespace {

constexpr ConvKernel direct = {"direct", can_direct, scratch_direct, 1, run_direct};

}  // namespace

extern const ConvKernel *const conv_kernels[] = {&direct, nullptr};

}  // namespace bitshift::simd::avx512
