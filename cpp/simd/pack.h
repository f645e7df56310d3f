// Codes of a file (outputs, inputs / groups, kernel) to the kernel layout of common.h, and what a loader wants to know about them.
#ifndef BITSHIFT_SIMD_PACK_H
#define BITSHIFT_SIMD_PACK_H

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common.h"

namespace bitshift::simd {

// Zero-filled memory, 64-byte aligned; blocks of 2 MB and more start at such a boundary and ask for huge pages.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(std::size_t bytes);
  std::uint8_t *data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::uint8_t *p) const;
  };
  std::unique_ptr<std::uint8_t, Free> data_;
  std::size_t size_ = 0;
};

// The codes of one output, one byte each, in the order of the file: (inputs / groups, kernel_h, kernel_w), or (inputs). Called
// once an output, in order, from the calling thread; the bytes need to live until the next call only.
using CodeRows = std::function<const std::uint8_t *(std::int64_t output)>;

struct PackedWeights {
  Weights w;             // w.packed points to `storage`, or to the memory given to pack_*
  AlignedBytes storage;  // empty if memory was given
  std::vector<std::int64_t> level_sums;  // sum of the levels of each output of the layer; empty for formats without integers
  // Of |2 G g| along the width and |4 G g G^T|; 0 if the layer is not 3x3, stride 1, dilation 1, groups 1, in_c % 4 == 0. No
  // kernel can use more than 127: a value over 3640 * 9 is cut.
  int wino1_max = 0, wino2_max = 0;
  // Of the layers that have a range: sums over the inputs of each tap's levels, tap t of output o at t * 16 * blocks + o.
  std::vector<std::int32_t> tap_sums;
};

// The layout of a layer, without codes.
// limit: the largest magnitude of a plane's entries, 127 or 64. Formats without integer levels (pot6, pot6d) get planes = 0.
Weights conv_weights(const bsk_conv &g, const bitshift_format &format, int limit);
Weights linear_weights(std::int64_t in, std::int64_t out, const bitshift_format &format, int limit);

// memory: where to write conv_weights(...).bytes() bytes, 64-byte aligned (zeros before or not), or null for storage of its own.
PackedWeights pack_conv(const bsk_conv &g, const bitshift_format &format, int limit, const CodeRows &rows,
                        std::uint8_t *memory = nullptr);
PackedWeights pack_linear(std::int64_t in, std::int64_t out, const bitshift_format &format, int limit, const CodeRows &rows,
                          std::uint8_t *memory = nullptr);

// Splits the levels of a format into the fewest planes whose entries are at most `limit`; false if three do not suffice.
bool split_levels(const bitshift_format &format, int limit, Weights &w);

// Scalar: the 512 codes of a superblock, code of (step z, lane l, input j) at z * 64 + l * 4 + j. For tests and cold paths.
void unpack_superblock(const std::uint8_t *packed, int bits, std::uint8_t *codes);
void pack_superblock(const std::uint8_t *codes, int bits, std::uint8_t *packed);

}  // namespace bitshift::simd
#endif
