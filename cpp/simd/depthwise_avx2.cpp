#include <type_traits>

#include "lists.h"
#define BITSHIFT_ISA_NAMESPACE avx2::depthwise
#include "vec_avx2.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kBlocks = 1;  // of a panel of requant.inc.h

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "requant.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
#include "depthwise_taps.inc.h"
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "depthwise.inc.h"

namespace bitshift::simd::avx2 {

static const ConvKernel kernel = {"depthwise", depthwise::can, depthwise::scratch, 1, depthwise::run};
extern const ConvKernel *const depthwise_kernels[] = {&kernel, nullptr};

}  // namespace bitshift::simd::avx2
