// Model files and their buffers, for the tests that run whole models through the C API.
#ifndef BITSHIFT_TESTS_MODELS_H
#define BITSHIFT_TESTS_MODELS_H

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "bitshift/bitshift.h"

namespace tests {

using Bytes = std::vector<std::uint8_t>;

// Ends the program with the last error; safe on any thread.
[[noreturn]] inline void die(const std::string &what) {
  std::fprintf(stderr, "%s: %s\n", what.c_str(), bs_last_error());
  std::_Exit(1);
}

inline Bytes read(const std::filesystem::path &path) {
  std::ifstream stream(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(stream), {});
}

// The model files of a folder in order of their names, or the one file.
inline std::vector<std::filesystem::path> model_files(const std::string &where) {
  std::vector<std::filesystem::path> paths;
  if (std::filesystem::is_directory(where)) {
    for (const auto &entry : std::filesystem::directory_iterator(where))
      if (entry.is_regular_file() && entry.path().extension() == ".safetensors") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
  } else if (std::filesystem::is_regular_file(where)) {
    paths.push_back(where);
  }
  return paths;
}

// Random integers within the type of `info`, its ends among them; random bits as floats, NaN and infinities among them unless
// they must be `tame`.
inline Bytes random_input(const bs_value_info &info, std::size_t batch, std::mt19937_64 &random, bool tame = false) {
  Bytes data(batch * info.sample_bytes);
  const std::size_t item = info.dtype <= BS_I8 ? 1 : info.dtype == BS_I16 ? 2 : 4;
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i + item <= data.size(); i += item) {
    std::uint64_t bits = random();
    if (info.dtype != BS_F32) {
      const auto choice = random() % 4;
      const std::uint64_t top = std::uint64_t{1} << (info.is_signed ? info.bits - 1 : info.bits);
      if (choice == 0) bits = top - 1;
      if (choice == 1) bits = info.is_signed ? 0 - top : 0;
      if (choice >= 2) bits = (bits & ((std::uint64_t{1} << info.bits) - 1)) - (info.is_signed ? top : 0);
    } else if (tame) {
      const float x = normal(random);
      std::memcpy(&bits, &x, 4);
    }
    std::memcpy(&data[i], &bits, item);
  }
  return data;
}

// Token ids that name rows which an embedding has.
inline void bring_into_range(const bs_model *model, std::size_t index, const bs_value_info &info, Bytes &data) {
  std::int32_t lo = 0, hi = 0;
  if (bs_input_range(model, index, &lo, &hi) != BS_OK) die("input_range");
  const std::size_t item = info.dtype <= BS_I8 ? 1 : info.dtype == BS_I16 ? 2 : 4;
  for (std::size_t i = 0; i + item <= data.size(); i += item) {
    std::int64_t q = 0;
    std::memcpy(&q, &data[i], item);
    if (info.dtype != BS_U8) q = static_cast<std::int64_t>(static_cast<std::uint64_t>(q) << (64 - 8 * item)) >> (64 - 8 * item);
    q = std::clamp<std::int64_t>(q, lo, hi);
    std::memcpy(&data[i], &q, item);
  }
}

// The words of bs_features().
inline std::vector<std::string> features() {
  std::vector<std::string> out(1);
  for (const char *c = bs_features(); *c; c++) {
    if (*c == ' ')
      out.emplace_back();
    else
      out.back() += *c;
  }
  return out;
}

// Whether all that the model computes are integers: then every instruction set gives the same outputs.
inline bool only_integers(const bs_model *model) {
  bs_value_info info;
  for (std::size_t i = 0; i < bs_input_count(model); i++)
    if (bs_input_info(model, i, &info) != BS_OK || info.dtype == BS_F32) return false;
  bs_step step;
  for (std::size_t i = 0; i < bs_step_count(model); i++)
    if (bs_step_info(model, i, &step) != BS_OK || std::strcmp(step.op, "dequantize") == 0) return false;
  return true;
}

// The inputs and outputs of one call of a model.
struct Call {
  std::size_t batch = 0;
  std::vector<Bytes> in, out;

  Call(const bs_model *model, std::size_t samples, std::mt19937_64 &random, bool tame = false) : batch(samples) {
    bs_value_info info;
    for (std::size_t i = 0; i < bs_input_count(model); i++) {
      if (bs_input_info(model, i, &info) != BS_OK) die("input_info");
      in.push_back(random_input(info, batch, random, tame));
      if (info.dtype != BS_F32) bring_into_range(model, i, info, in.back());
    }
    for (std::size_t i = 0; i < bs_output_count(model); i++) {
      if (bs_output_info(model, i, &info) != BS_OK) die("output_info");
      out.emplace_back(batch * info.sample_bytes);
    }
  }

  bs_status run(const bs_model *model) {
    std::vector<const void *> from;
    std::vector<void *> to;
    std::vector<std::size_t> from_bytes, to_bytes;
    for (const Bytes &buffer : in) {
      from.push_back(buffer.data());
      from_bytes.push_back(buffer.size());
    }
    for (Bytes &buffer : out) {
      to.push_back(buffer.data());
      to_bytes.push_back(buffer.size());
    }
    return bs_run(model, batch, from.data(), from_bytes.data(), to.data(), to_bytes.data());
  }
};

}  // namespace tests
#endif
