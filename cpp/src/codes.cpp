#include "codes.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "error.h"

namespace bitshift {
namespace {

// Eight codes are `bits` bytes: the unit of all loops here. The low `count` bytes of a unit; a file is little-endian, and so
// is every machine that builds this (api.cpp).
std::uint64_t load(const std::uint8_t *at, std::size_t count) {
  std::uint64_t unit = 0;
  std::memcpy(&unit, at, count);
  return unit;
}

// A unit whose eight bytes may all be read.
std::uint64_t load8(const std::uint8_t *at) { return load(at, 8); }

constexpr std::uint64_t low_bits(int n) { return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; }

// The eight codes of a unit to eight bytes, by halves: 4 + 4 codes, 2 + 2 in each half, 1 + 1 in each quarter. What lies above
// the unit's 8 * B bits is ignored.
template <int B>
std::uint64_t spread(std::uint64_t x) {
  constexpr std::uint64_t four = low_bits(4 * B), two = low_bits(2 * B) * 0x0000000100000001u, one = low_bits(B) * 0x0001000100010001u;
  x = (x & four) | (x >> (4 * B) & four) << 32;
  x = (x & two) | (x >> (2 * B) & two) << 16;
  return (x & one) | (x >> B & one) << 8;
}

template <int B>
void unpack_row(const std::uint8_t *row, const std::uint8_t *end, std::int64_t count, std::uint8_t *out) {
  std::int64_t i = 0;
  for (; i + 8 <= count && end - row >= 8; i += 8, row += B) {
    const std::uint64_t codes = spread<B>(load8(row));
    std::memcpy(out + i, &codes, 8);
  }
  for (; i < count; i += 8, row += B) {
    const auto n = static_cast<std::size_t>(std::min<std::int64_t>(count - i, 8));
    const std::uint64_t codes = spread<B>(load(row, (n * B + 7) / 8));
    std::memcpy(out + i, &codes, n);
  }
}

template <int B>
void unpack_rows(const PackedCodes &codes, std::int64_t first, std::int64_t count, std::uint8_t *out) {
  const std::int64_t row_bytes = codes.row_bytes();
  const std::uint8_t *at = codes.data + first * row_bytes, *const end = codes.data + codes.bytes();
  // Rows that fill their last byte are one long row.
  if (codes.per_row * B % 8 == 0) return unpack_row<B>(at, end, codes.per_row * count, out);
  for (std::int64_t r = 0; r < count; r++, at += row_bytes, out += codes.per_row) unpack_row<B>(at, end, codes.per_row, out);
}

// What some codes add to a row, in one number, so that a table of groups of codes gives it with one load: the sum of the
// positive levels in bits 0..25, of the negative ones' magnitudes in 26..51, the number of reserved codes in 52..63. The
// fields hold kChunk codes of levels up to 2^15.
constexpr std::int64_t kChunk = 1024;
constexpr int kField = 26;

template <int B>
struct Tally {
  // Codes that one look-up takes: as many as fit 8 bits and divide a unit.
  static constexpr int kGroup = B == 1 ? 8 : B == 2 ? 4 : B <= 4 ? 2 : 1;
  std::array<std::uint64_t, std::size_t{1} << B> one{};
  std::array<std::uint64_t, std::size_t{1} << (B * kGroup)> group{};

  explicit Tally(const bitshift_format &format) {
    for (std::size_t c = 0; c < one.size(); c++) {
      const std::int64_t level = format.levels ? format.levels[c] : 0;
      one[c] = static_cast<std::uint64_t>(level > 0 ? level : 0) | static_cast<std::uint64_t>(level < 0 ? -level : 0) << kField;
      if (static_cast<std::int32_t>(c) == format.reserved) one[c] += std::uint64_t{1} << (2 * kField);
    }
    for (std::size_t g = 0; g < group.size(); g++)
      for (int k = 0; k < kGroup; k++) group[g] += one[g >> (k * B) & (one.size() - 1)];
  }

  // Of at most kChunk codes from a unit's beginning on.
  std::uint64_t of(const std::uint8_t *at, const std::uint8_t *end, std::int64_t count) const {
    std::uint64_t sum = 0;
    for (; count >= 8 && end - at >= 8; count -= 8, at += B) {
      const std::uint64_t unit = load8(at);
      for (int k = 0; k < 8; k += kGroup) sum += group[unit >> (k * B) & (group.size() - 1)];
    }
    for (; count > 0; count -= 8, at += B) {
      const int n = static_cast<int>(std::min<std::int64_t>(count, 8));
      const std::uint64_t unit = load(at, static_cast<std::size_t>(n * B + 7) / 8);
      for (int k = 0; k < n; k++) sum += one[unit >> (k * B) & (one.size() - 1)];
    }
    return sum;
  }
};

template <int B>
std::vector<LevelSums> check(const PackedCodes &codes, const std::string &where) {
  const Tally<B> tally(*codes.format);
  const std::int64_t row_bytes = codes.row_bytes();
  const int used = static_cast<int>(codes.per_row * B % 8);  // bits of the last byte; 0: all
  const std::uint8_t *row = codes.data, *const end = codes.data + codes.bytes();
  std::vector<LevelSums> sums(static_cast<std::size_t>(codes.rows));
  for (std::int64_t r = 0; r < codes.rows; r++, row += row_bytes) {
    LevelSums &sum = sums[static_cast<std::size_t>(r)];
    for (std::int64_t i = 0; i < codes.per_row; i += kChunk) {
      const std::uint64_t found = tally.of(row + i / 8 * B, end, std::min(kChunk, codes.per_row - i));
      sum.above += static_cast<std::int64_t>(found & low_bits(kField));
      sum.below -= static_cast<std::int64_t>(found >> kField & low_bits(kField));
      if (found >> (2 * kField))
        throw ModelFileError(where + ": reserved code " + std::to_string(codes.format->reserved) + " in row " + std::to_string(r));
    }
    if (used && row[row_bytes - 1] >> used)
      throw ModelFileError(where + ": a padding bit of packed row " + std::to_string(r) + " is set; padding must be 0");
  }
  return sums;
}

}  // namespace

void PackedCodes::unpack(std::int64_t row, std::int64_t count, std::uint8_t *out) const {
  switch (format->bits) {
    case 1: return unpack_rows<1>(*this, row, count, out);
    case 2: return unpack_rows<2>(*this, row, count, out);
    case 3: return unpack_rows<3>(*this, row, count, out);
    case 4: return unpack_rows<4>(*this, row, count, out);
    case 5: return unpack_rows<5>(*this, row, count, out);
    case 6: return unpack_rows<6>(*this, row, count, out);
    case 7: return unpack_rows<7>(*this, row, count, out);
    default: return unpack_rows<8>(*this, row, count, out);
  }
}

std::vector<LevelSums> check_codes(const PackedCodes &codes, const std::string &where) {
  switch (codes.format->bits) {
    case 1: return check<1>(codes, where);
    case 2: return check<2>(codes, where);
    case 3: return check<3>(codes, where);
    case 4: return check<4>(codes, where);
    case 5: return check<5>(codes, where);
    case 6: return check<6>(codes, where);
    case 7: return check<7>(codes, where);
    default: return check<8>(codes, where);
  }
}

}  // namespace bitshift
