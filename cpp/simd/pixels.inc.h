// The kernels of pixels.h, for the instruction set this is compiled for. A file pixels_<isa>.cpp defines BITSHIFT_ISA_NAMESPACE, the
// namespace, and includes this. Loops are plain C++ that gcc turns into vectors, or vectors of its own; intrinsics where the
// compiler does not find them (rounding modes, byte tables).
#include "lists.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)  // gcc 12 takes its own _mm512_undefined for a slip (gcc bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

#include "lanes.inc.h"

#include "pixels_map.inc.h"
#include "pixels_planar.inc.h"
#include "pixels_pool.inc.h"

}  // namespace

extern const PixelKernels pixel_kernels = {border, from_planar, to_planar, quantize, max_pool, avg_pool, add, table, channels};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
