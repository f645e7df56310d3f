// Packed weights of a model file: read where they lie, never unpacked as a whole.
#ifndef BITSHIFT_SRC_CODES_H
#define BITSHIFT_SRC_CODES_H

#include <cstdint>
#include <string>
#include <vector>

#include "bitshift/formats.h"

namespace bitshift {

// `rows` rows of `per_row` codes of format->bits bits, least significant bit first, each row on a byte of its own.
struct PackedCodes {
  const std::uint8_t *data = nullptr;  // in the bytes of the file: valid while the model is being loaded
  const bitshift_format *format = nullptr;
  std::int64_t rows = 0, per_row = 0;

  std::int64_t row_bytes() const { return (per_row * format->bits + 7) / 8; }
  std::int64_t bytes() const { return rows * row_bytes(); }
  // The codes of `count` rows from `row` on, a byte each, per_row * count in all. Reads no byte behind the constant.
  void unpack(std::int64_t row, std::int64_t count, std::uint8_t *out) const;
};

// The positive and the negative levels of a row, each added up. At most 2^31 levels of at most 2^15.
struct LevelSums {
  std::int64_t above = 0, below = 0;
};

// One entry a row; zeros where the format has no integer levels. Throws ModelFileError, beginning with `where`, for a reserved
// code and for a padding bit that is set.
std::vector<LevelSums> check_codes(const PackedCodes &codes, const std::string &where);

}  // namespace bitshift
#endif
