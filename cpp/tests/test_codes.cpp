// Packed codes: unpacking, sums of levels and refusals against loops over single bits, for every format and many shapes.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../src/codes.h"
#include "../src/error.h"

using bitshift::PackedCodes;

namespace {

#define CHECK(condition, ...)                                                           \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);              \
      std::fprintf(stderr, __VA_ARGS__);                                                \
      std::fprintf(stderr, "\n");                                                       \
      std::exit(1);                                                                     \
    }                                                                                   \
  } while (0)

// Packs bit by bit into memory of the exact size, so that the sanitizer sees a byte read too far.
struct Packed {
  std::vector<std::uint8_t> codes;
  std::unique_ptr<std::uint8_t[]> bytes;
  PackedCodes view;

  Packed(const bitshift_format &format, std::int64_t rows, std::int64_t per_row, std::mt19937_64 &random, bool extreme) {
    view = {nullptr, &format, rows, per_row};
    bytes = std::make_unique<std::uint8_t[]>(static_cast<std::size_t>(view.bytes()));
    view.data = bytes.get();
    const std::uint8_t largest = extreme_code(format, random() % 2 != 0);
    for (std::int64_t i = 0; i < rows * per_row; i++) {
      auto code = static_cast<std::uint8_t>(random() & ((1u << format.bits) - 1));
      if (extreme) code = largest;
      if (code == format.reserved) code = static_cast<std::uint8_t>(code == 0);
      codes.push_back(code);
      for (int b = 0; b < format.bits; b++) {
        const std::int64_t bit = i % per_row * format.bits + b;
        bytes[static_cast<std::size_t>(i / per_row * view.row_bytes() + bit / 8)] |= static_cast<std::uint8_t>((code >> b & 1) << bit % 8);
      }
    }
  }

  static std::uint8_t extreme_code(const bitshift_format &format, bool low) {
    int found = 0;
    for (int c = 1; format.levels && c < 1 << format.bits; c++)
      if (low ? format.levels[c] < format.levels[found] : format.levels[c] > format.levels[found]) found = c;
    return static_cast<std::uint8_t>(found);
  }
};

bool refused(const PackedCodes &codes, const char *word) {
  try {
    bitshift::check_codes(codes, "here");
  } catch (const bitshift::ModelFileError &error) {
    return std::string(error.what()).rfind("here: ", 0) == 0 && std::string(error.what()).find(word) != std::string::npos;
  }
  return false;
}

void compare(const bitshift_format &format, std::int64_t rows, std::int64_t per_row, std::mt19937_64 &random) {
  Packed packed(format, rows, per_row, random, random() % 4 == 0);
  const auto sums = bitshift::check_codes(packed.view, "here");
  CHECK(sums.size() == static_cast<std::size_t>(rows), "%zu sums", sums.size());
  for (std::int64_t r = 0; r < rows; r++) {
    std::int64_t above = 0, below = 0;
    for (std::int64_t i = 0; i < per_row && format.levels; i++) {
      const std::int32_t level = format.levels[packed.codes[static_cast<std::size_t>(r * per_row + i)]];
      (level > 0 ? above : below) += level;
    }
    const auto &found = sums[static_cast<std::size_t>(r)];
    CHECK(found.above == above && found.below == below, "%s row %lld", format.name, static_cast<long long>(r));
  }
  const auto first = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows));
  const auto count = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows - first + 1));
  std::vector<std::uint8_t> out(static_cast<std::size_t>(count * per_row) + 1, 0xA5);
  packed.view.unpack(first, count, out.data());
  for (std::int64_t i = 0; i < count * per_row; i++)
    CHECK(out[static_cast<std::size_t>(i)] == packed.codes[static_cast<std::size_t>(first * per_row + i)], "%s %lld rows of %lld: code %lld",
          format.name, static_cast<long long>(rows), static_cast<long long>(per_row), static_cast<long long>(i));
  CHECK(out.back() == 0xA5, "%s wrote behind its rows", format.name);

  // One bad code or padding bit, anywhere, is found.
  const auto at = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(rows * per_row));
  std::uint8_t *row = packed.bytes.get() + at / per_row * packed.view.row_bytes();
  if (per_row * format.bits % 8) {
    const auto free = static_cast<std::uint64_t>(8 - per_row * format.bits % 8);
    const auto bit = static_cast<std::uint8_t>(0x80u >> random() % free);
    row[packed.view.row_bytes() - 1] |= bit;
    CHECK(refused(packed.view, "padding"), "%s", format.name);
    row[packed.view.row_bytes() - 1] ^= bit;
  }
  if (format.reserved >= 0) {
    for (int b = 0; b < format.bits; b++) {
      const std::int64_t bit = at % per_row * format.bits + b;
      row[bit / 8] = static_cast<std::uint8_t>((row[bit / 8] & ~(1 << bit % 8)) | (format.reserved >> b & 1) << bit % 8);
    }
    CHECK(refused(packed.view, "reserved"), "%s code %lld of %lld x %lld", format.name, static_cast<long long>(at),
          static_cast<long long>(rows), static_cast<long long>(per_row));
  }
}

// Every code of a long row is reserved: the count of them must not wrap around to none.
void many_reserved(const bitshift_format &format) {
  for (const std::int64_t per_row : {1024, 2048, 4096, 65536}) {
    const PackedCodes size{nullptr, &format, 1, per_row};
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size.bytes()));
    for (std::int64_t bit = 0; bit < per_row * format.bits; bit++)
      bytes[static_cast<std::size_t>(bit / 8)] |= static_cast<std::uint8_t>((format.reserved >> bit % format.bits & 1) << bit % 8);
    CHECK(refused({bytes.data(), &format, 1, per_row}, "reserved"), "%s", format.name);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random(7);
  for (const bitshift_format &format : bitshift_formats) {
    for (std::int64_t per_row = 1; per_row <= 40; per_row++) compare(format, 1 + per_row % 5, per_row, random);
    for (const std::int64_t per_row : {63, 64, 576, 1023, 1024, 1025, 2304, 5000}) compare(format, 3, per_row, random);
    for (int i = 0; i < 30; i++)
      compare(format, static_cast<std::int64_t>(1 + random() % 20), static_cast<std::int64_t>(1 + random() % 3000), random);
    if (format.reserved >= 0) many_reserved(format);
  }
  std::printf("codes: ok\n");
  return 0;
}
