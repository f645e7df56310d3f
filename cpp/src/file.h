// The bytes of a model file while it is being loaded: the caller's memory, or a mapped file.
#ifndef BITSHIFT_SRC_FILE_H
#define BITSHIFT_SRC_FILE_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitshift {

class ModelBytes {
 public:
  // Memory of the caller, which keeps it alive.
  ModelBytes(const std::uint8_t *data, std::size_t size) : data_(data), size_(size) {}
  // Maps the file, or reads it where it cannot be mapped. Throws IoError. The file must not change while it is mapped.
  explicit ModelBytes(const std::string &path);
  ~ModelBytes();
  ModelBytes(const ModelBytes &) = delete;
  ModelBytes &operator=(const ModelBytes &) = delete;

  const std::uint8_t *data() const { return data_; }
  std::size_t size() const { return size_; }

  // Loading holds one large constant of a mapped file in memory at a time: touching these bytes makes none of their neighbours
  // resident, and released pages go back to the system, which brings them again when they are touched.
  void apart(const std::uint8_t *from, std::size_t bytes) const;
  void release(const std::uint8_t *from, std::size_t bytes) const;

 private:
  const std::uint8_t *data_ = nullptr;
  std::size_t size_ = 0;
  void *mapped_ = nullptr;
  std::vector<std::uint8_t> copy_;  // of a file that could not be mapped
};

}  // namespace bitshift
#endif
