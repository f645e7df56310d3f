// Which of the kernels in this build the processor at hand can run.
#include <cstdint>

#include "isa.h"
#include "lists.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace bitshift::simd {
namespace {

template <class Kernel>
void append(std::vector<const Kernel *> &to, const Kernel *const *list) {
  for (; *list; list++) to.push_back(*list);
}

#if defined(__x86_64__)
// libgcc asks the system, too, whether it saves the registers.
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

[[maybe_unused]] bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

[[maybe_unused]] bool has_avx512vl() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#elif defined(__aarch64__)
[[maybe_unused]] bool has_dotprod() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // every 64-bit Apple processor that this is built for
#endif
}
#endif

[[maybe_unused]] Isa isa_of(const char *name, int limit, const ConvKernel *const *conv, const ConvKernel *const *depthwise,
                            const LinearKernel *const *linear, const FloatKernel *const *floats, const PixelKernels &pixels) {
  Isa isa{name, limit, {}, {}, {}, &pixels};
  append(isa.conv, conv);
  append(isa.conv, depthwise);
  append(isa.linear, linear);
  append(isa.floats, floats);
  return isa;
}

// Instruction sets whose kernels this processor runs. What the 256-bit dot products lack, they take from AVX2.
std::vector<Isa> found() {
  std::vector<Isa> out;
#if defined(BITSHIFT_WITH_avx512)
  if (has_avx512())
    out.push_back(isa_of("avx512", 127, avx512::conv_kernels, avx512::depthwise_kernels, avx512::linear_kernels, avx512::float_kernels,
                         avx512::pixel_kernels));
#endif
#if defined(BITSHIFT_WITH_avx512vl)
  if (has_avx512vl())
    out.push_back(isa_of("avx512vl", 127, avx512vl::conv_kernels, avx2::depthwise_kernels, avx512vl::linear_kernels, avx2::float_kernels,
                         avx2::pixel_kernels));
#endif
#if defined(BITSHIFT_WITH_avxvnni)
  if (has_avxvnni())
    out.push_back(isa_of("avxvnni", 127, avxvnni::conv_kernels, avx2::depthwise_kernels, avxvnni::linear_kernels, avx2::float_kernels,
                         avx2::pixel_kernels));
#endif
#if defined(BITSHIFT_WITH_avx2)
  if (has_avx2())
    out.push_back(isa_of("avx2", 64, avx2::conv_kernels, avx2::depthwise_kernels, avx2::linear_kernels, avx2::float_kernels,
                         avx2::pixel_kernels));
#endif
#if defined(BITSHIFT_WITH_neon)
  if (has_dotprod())
    out.push_back(isa_of("neon", 127, neon::conv_kernels, neon::depthwise_kernels, neon::linear_kernels, neon::float_kernels,
                         neon::pixel_kernels));
#endif
  return out;
}

}  // namespace

const std::vector<Isa> &isas() {
  static const std::vector<Isa> all = found();
  return all;
}

}  // namespace bitshift::simd
