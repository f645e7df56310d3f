// "f32-expadd": DenseShift's product, an integer addition on the exponent bits, for rows of floats; one candidate beside the
// multiply-adds of f32-gemv, which win where a multiplier is as cheap as an adder. Included by float_<isa>.cpp behind
// float.inc.h. FloatOps brings one primitive more:
//
//    // sum + float(*x + (addend & *mask)), lanes whose addend is odd count 0 if Zeros.
//    template <bool Zeros> static F add_exponent(F addend, const uint32_t *x, const uint32_t *mask, F sum);
//
// An addend is (e << 23) + sign, 1 for the level 0. The plain sum of bits is the product where x is normal and stays so. A zero
// x gets a mask of 0, and so contributes 0. All others (subnormal, infinite, NaN, about to overflow) are taken out, multiplied by
// exponent_add one by one, and added behind.
#include "expadd.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

// In place of Multiply.
template <bool Zeros>
struct AddExponent {
  const std::uint32_t *rows, *masks;
  FloatOps::F operator()(const FloatOps::F &addend, std::int64_t at, const FloatOps::F &sum) const {
    return FloatOps::template add_exponent<Zeros>(addend, rows + at, masks + at, sum);
  }
};

// The code of input `input` (0..31) of output `lane` in a superblock.
inline unsigned code_at(const std::uint8_t *packed, int bits, int input, int lane) {
  const int z = input / kStep, byte = lane * kStep + input % kStep;
  const auto field = [&](int row, int first, int width) { return static_cast<unsigned>(packed[64 * row + byte] >> first) & ((1u << width) - 1); };
  switch (bits) {
    case 1: return field(0, z, 1);
    case 2: return field(z / 4, 2 * (z % 4), 2);
    case 3: return z < 6 ? field(z / 2, 3 * (z % 2), 3) : field(z - 6, 6, 2) | field(2, z, 1) << 2;
    case 8: return field(z, 0, 8);
    default: {
      unsigned code = field(z / 2, 4 * (z % 2), 4);
      if (bits >= 6) code |= field(4 + z / 4, 2 * (z % 4), 2) << 4;
      if (bits % 2) code |= field(bits - 1, z, 1) << (bits - 1);
      return code;
    }
  }
}

struct Special {
  std::int64_t row, input;
  std::uint32_t x;
};

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// In scratch, for each thread: rows, masks, and the list of special values.
struct ExpaddScratch {
  std::size_t rows, specials, thread;
  ExpaddScratch(const FloatLayer &layer, std::int64_t n)
      : rows(rows_bytes(layer, n)), specials((static_cast<std::size_t>(n * layer.g.in_c) * sizeof(Special) + 63) & ~std::size_t{63}),
        thread(2 * rows + specials) {}
};

template <int Bits>
struct Expadd {
  static constexpr int kCodes = 1 << Bits;
  // Rows go four at a time, and the last ones alone.
  static std::int64_t size_at(std::int64_t first, std::int64_t rows) { return rows - first >= 4 ? 4 : 1; }
  template <int Rows, bool Zeros>
  static void block(const FloatOps::Levels<Bits> &table, const FloatLayer &layer, const std::uint8_t *packed, const std::uint32_t *rows,
                    const std::uint32_t *masks, float *sums) {
    multiply_block<Bits, Rows>(table, packed, layer.w.supers, AddExponent<Zeros>{rows, masks}, sums);
  }
  using Block = decltype(&block<1, true>);
  static Block block_of(std::int64_t rows, bool zeros) {
    if (rows == 1) return zeros ? &block<1, true> : &block<1, false>;
    return zeros ? &block<4, true> : &block<4, false>;
  }

  static void run(const FloatLayer &layer, const Task &task) {
    const std::int64_t n = task.samples, in = layer.g.in_c;
    const ExpaddScratch parts(layer, n);
    std::uint8_t *mine = task.scratch + static_cast<std::size_t>(task.thread) * parts.thread;
    auto *rows = reinterpret_cast<std::uint32_t *>(mine), *masks = reinterpret_cast<std::uint32_t *>(mine + parts.rows);
    auto *specials = reinterpret_cast<Special *>(mine + 2 * parts.rows);

    float addends[kCodes];  // as bits: no arithmetic is done on them
    int largest = 0;
    bool zeros = false;
    for (int c = 0; c < kCodes; c++) {
      const PowerOfTwo level(bits_of(layer.levels[c]));
      const std::uint32_t addend = level.zero ? 1 : (static_cast<std::uint32_t>(level.exponent) << 23) + (level.negative ? kSignBit : 0);
      std::memcpy(&addends[c], &addend, sizeof addend);
      zeros = zeros || level.zero;
      largest = level.exponent > largest ? level.exponent : largest;
    }

    std::memset(rows, 0, 2 * parts.rows);
    std::int64_t count = 0;
    for (std::int64_t first = 0, size; first < n; first += size) {
      size = size_at(first, n);
      for (std::int64_t r = 0; r < size; r++) {
        const auto *x = reinterpret_cast<const float *>(task.in + (first + r) * task.in_stride);
        for (std::int64_t k = 0; k < in; k++) {
          const std::uint32_t bits = bits_of(x[k]);
          const std::int64_t at = first * inputs_of(layer) + k * size + r;
          if (plain(bits, largest)) {
            rows[at] = bits;
            masks[at] = ~0u;
          } else if (bits & ~kSignBit) {
            specials[count++] = {first + r, k, bits};
          }
        }
      }
    }

    const FloatOps::Levels<Bits> table(addends);
    std::int64_t begin, end;
    task.share(layer.w.blocks, begin, end);
    alignas(64) float sums[8 * kLanes];  // of all rows
    for (std::int64_t b = begin; b < end; b++) {
      const std::uint8_t *packed = layer.w.packed + static_cast<std::size_t>(b) * layer.w.block_bytes();
      for (std::int64_t first = 0, size; first < n; first += size) {
        size = size_at(first, n);
        const std::int64_t at = first * inputs_of(layer);
        block_of(size, zeros)(table, layer, packed, rows + at, masks + at, sums + first * kLanes);
      }
      for (std::int64_t i = 0; i < count; i++) {
        const Special &s = specials[i];
        const std::uint8_t *super = packed + s.input / kSuperInputs * 64 * Bits;
        for (int lane = 0; lane < kLanes; lane++) {
          const unsigned code = code_at(super, Bits, static_cast<int>(s.input % kSuperInputs), lane);
          const std::uint32_t product = exponent_add(s.x, PowerOfTwo(bits_of(layer.levels[code])));
          float value;
          std::memcpy(&value, &product, sizeof value);
          sums[s.row * kLanes + lane] += value;
        }
      }
      store_rows(layer, task, 0, n, b, sums);
    }
  }
};

bool expadd_can(const FloatLayer &layer, std::int64_t rows) {
  if (!gemv_can(layer, rows) || layer.w.format->bits > 6) return false;
  for (int c = 0; c < 1 << layer.w.format->bits; c++)
    if (!PowerOfTwo(bits_of(layer.levels[c])).valid) return false;
  return true;
}
std::size_t expadd_scratch(const FloatLayer &layer, std::int64_t rows, int threads) {
  return static_cast<std::size_t>(threads) * ExpaddScratch(layer, rows).thread;
}
void expadd_run(const FloatLayer &layer, const Task &task, int) {
  switch (layer.w.format->bits) {
    case 1: return Expadd<1>::run(layer, task);
    case 2: return Expadd<2>::run(layer, task);
    case 3: return Expadd<3>::run(layer, task);
    case 4: return Expadd<4>::run(layer, task);
    case 5: return Expadd<5>::run(layer, task);
    default: return Expadd<6>::run(layer, task);
  }
}

constexpr FloatKernel f32_expadd{"f32-expadd", expadd_can, expadd_scratch, 1, expadd_run};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
