// Arrays in .npy files, versions 1 to 3: C order, little-endian.
#ifndef BITSHIFT_RUNNER_NPY_H
#define BITSHIFT_RUNNER_NPY_H

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace runner {

// What a person did wrong; the message says what would be right.
struct Complaint : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Array {
  std::string descr;  // numpy's name of the dtype, e.g. "<f4", "|u1"
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> data;
};

std::vector<std::uint8_t> read_file(const std::string &path);
void write_file(const std::string &path, const std::vector<std::uint8_t> &data);

bool is_npy(const std::string &path);
Array read_npy(const std::string &path);
void write_npy(const std::string &path, const Array &array);

// "(2, 3)", "(2,)", as Python writes it.
std::string tuple_text(const std::vector<std::int64_t> &shape);

}  // namespace runner
#endif
