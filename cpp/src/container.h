// The outer layer of a model file, a strict safetensors reader: the twin of core/container.py.
#ifndef BITSHIFT_SRC_CONTAINER_H
#define BITSHIFT_SRC_CONTAINER_H

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "graph.h"

namespace bitshift {

enum class Stored { u8, i8, i16, i32, i64, f32 };
const char *stored_name(Stored dtype);

// A view of one tensor; `data` may be unaligned and lives as long as the file's bytes.
struct Tensor {
  Stored dtype = Stored::u8;
  Shape shape;
  const std::uint8_t *data = nullptr;
  std::size_t bytes = 0;
};

struct Container {
  std::unordered_map<std::string, std::string> metadata;
  std::unordered_map<std::string, Tensor> tensors;
};

// Throws ModelFileError for every deviation from section 1 of docs/model-file.md.
Container read_container(const std::uint8_t *data, std::size_t size);

// 1 to 200 printable ASCII characters.
bool is_name(const std::string &text);

// A list of at most `at_most` integers from lo to hi; throws naming `where`.
Shape int_list(const Json &found, const std::string &where, std::int64_t lo, std::int64_t hi, std::size_t at_most);

// The product of non-negative numbers, or -1 when it is over `most`.
std::int64_t bounded_product(const Shape &shape, std::int64_t most);

}  // namespace bitshift
#endif
