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

// Instruction sets whose kernels this processor runs. The kernels of a family that a set lacks come from the next one.
std::vector<Isa> found() {
  std::vector<Isa> out;
#if defined(__x86_64__)
#if defined(BITSHIFT_WITH_pixels_avx512)
  if (has_avx512()) {
    Isa isa{"avx512", 127, {}, {}, {}, &avx512::pixel_kernels};
#if defined(BITSHIFT_WITH_conv_avx512)
    append(isa.conv, avx512::conv_kernels);
#endif
#if defined(BITSHIFT_WITH_depthwise_avx512)
    append(isa.conv, avx512::depthwise_kernels);
#endif
#if defined(BITSHIFT_WITH_linear_avx512)
    append(isa.linear, avx512::linear_kernels);
#endif
#if defined(BITSHIFT_WITH_float_avx512)
    append(isa.floats, avx512::float_kernels);
#endif
    out.push_back(isa);
  }
#endif
#if defined(BITSHIFT_WITH_pixels_avx2)
  if (has_avx2()) {
    Isa isa{"avx2", 64, {}, {}, {}, &avx2::pixel_kernels};
#if defined(BITSHIFT_WITH_depthwise_avx2)
    append(isa.conv, avx2::depthwise_kernels);
#endif
#if defined(BITSHIFT_WITH_float_avx2)
    append(isa.floats, avx2::float_kernels);
#endif
    // The dot product of 256 bits, in two encodings; everything else is AVX2's.
    if (has_avx512vl()) {
      Isa vl = isa;
      vl.name = "avx512vl";
      vl.limit = 127;
#if defined(BITSHIFT_WITH_conv_avx512vl)
      append(vl.conv, avx512vl::conv_kernels);
#endif
#if defined(BITSHIFT_WITH_linear_avx512vl)
      append(vl.linear, avx512vl::linear_kernels);
#endif
      out.push_back(vl);
    }
    if (has_avxvnni()) {
      Isa vnni = isa;
      vnni.name = "avxvnni";
      vnni.limit = 127;
#if defined(BITSHIFT_WITH_conv_avxvnni)
      append(vnni.conv, avxvnni::conv_kernels);
#endif
#if defined(BITSHIFT_WITH_linear_avxvnni)
      append(vnni.linear, avxvnni::linear_kernels);
#endif
      out.push_back(vnni);
    }
#if defined(BITSHIFT_WITH_conv_avx2)
    append(isa.conv, avx2::conv_kernels);
#endif
#if defined(BITSHIFT_WITH_linear_avx2)
    append(isa.linear, avx2::linear_kernels);
#endif
    out.push_back(isa);
  }
#endif
#elif defined(__aarch64__)
#if defined(BITSHIFT_WITH_pixels_neon)
  if (has_dotprod()) {
    Isa isa{"neon", 127, {}, {}, {}, &neon::pixel_kernels};
#if defined(BITSHIFT_WITH_conv_neon)
    append(isa.conv, neon::conv_kernels);
#endif
#if defined(BITSHIFT_WITH_depthwise_neon)
    append(isa.conv, neon::depthwise_kernels);
#endif
#if defined(BITSHIFT_WITH_linear_neon)
    append(isa.linear, neon::linear_kernels);
#endif
#if defined(BITSHIFT_WITH_float_neon)
    append(isa.floats, neon::float_kernels);
#endif
    out.push_back(isa);
  }
#endif
#endif
  return out;
}

}  // namespace

const std::vector<Isa> &isas() {
  static const std::vector<Isa> all = found();
  return all;
}

}  // namespace bitshift::simd
