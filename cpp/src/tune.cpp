#include "tune.h"

namespace bitshift {
namespace {

template <class Kernel, class Can>
const Kernel *first(const std::vector<const Kernel *> &kernels, Can can) {
  for (const Kernel *kernel : kernels)
    if (can(kernel)) return kernel;
  return nullptr;
}

}  // namespace

const simd::ConvKernel *choose_conv(const Settings &settings, const simd::ConvLayer &layer) {
  return first(settings.isa->conv, [&](const simd::ConvKernel *k) { return k->can(layer); });
}

const simd::LinearKernel *choose_linear(const Settings &settings, const simd::LinearLayer &layer, std::int64_t rows) {
  return first(settings.isa->linear, [&](const simd::LinearKernel *k) { return k->can(layer, rows); });
}

const simd::FloatKernel *choose_float(const Settings &settings, const simd::FloatLayer &layer, std::int64_t rows) {
  return first(settings.isa->floats, [&](const simd::FloatKernel *k) { return k->can(layer, rows); });
}

}  // namespace bitshift
