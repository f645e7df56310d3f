// Between files and the buffers of a model: inputs from arrays or at random, outputs as arrays and as text.
#ifndef BITSHIFT_RUNNER_VALUES_H
#define BITSHIFT_RUNNER_VALUES_H

#include <random>

#include "bitshift/bitshift.h"
#include "npy.h"

namespace runner {

std::size_t item_bytes(bs_dtype dtype);
std::vector<std::int64_t> shape_of(const bs_value_info &info);
// "s8.7 [3, 224, 224]"
std::string type_text(const bs_value_info &info);

// The samples in a file, and how many. An .npy file holds the integers of the input or float32 values, of shape (N, *shape) or
// of one sample; values of an integer input are quantised as the op `quantize` does it. Any other file holds raw samples.
std::vector<std::uint8_t> read_input(const std::string &path, const bs_value_info &info, std::size_t &batch);

// Integers from lo to hi; values from the standard normal distribution.
std::vector<std::uint8_t> random_input(const bs_value_info &info, std::int64_t lo, std::int64_t hi, std::size_t batch, std::mt19937_64 &random);

// `real`: integers q become the values q * 2^-frac.
Array output_array(const bs_value_info &info, const std::vector<std::uint8_t> &data, std::size_t batch, bool real);
// Element i of a buffer: as it is stored, and as the value that it stands for.
double element_of(const bs_value_info &info, const std::uint8_t *data, std::size_t i);
double value_of(const bs_value_info &info, const std::uint8_t *data, std::size_t i);

}  // namespace runner
#endif
