// Which kernel computes a layer.
#ifndef BITSHIFT_SRC_TUNE_H
#define BITSHIFT_SRC_TUNE_H

#include "settings.h"

namespace bitshift {

// Null where none of the set's kernels can.
const simd::ConvKernel *choose_conv(const Settings &settings, const simd::ConvLayer &layer);
const simd::LinearKernel *choose_linear(const Settings &settings, const simd::LinearLayer &layer, std::int64_t rows);
const simd::FloatKernel *choose_float(const Settings &settings, const simd::FloatLayer &layer, std::int64_t rows);

}  // namespace bitshift
#endif
