// x * (+-2^e) and x * 0 by integer operations on the bits of a float: the product of a power-of-two level without a multiplier.
#ifndef BITSHIFT_SIMD_EXPADD_H
#define BITSHIFT_SIMD_EXPADD_H

#include "common.h"

namespace bitshift::simd {

constexpr std::uint32_t kSignBit = 0x80000000u, kExponentOne = 0x00800000u, kInfinity = 0x7f800000u, kQuiet = 0x00400000u;

// A level as exponent and sign. Levels are 0 or +-2^e with 0 <= e <= 126; `level` as its bits.
struct PowerOfTwo {
  int exponent = 0;
  bool negative = false, zero = false, valid = true;

  explicit constexpr PowerOfTwo(std::uint32_t level)
      : exponent(static_cast<int>((level & ~kSignBit) >> 23) - 127), negative(level >> 31), zero((level & ~kSignBit) == 0) {
    valid = zero || ((level & (kExponentOne - 1)) == 0 && exponent >= 0 && exponent <= 126);
    if (zero) exponent = 0;
  }
};

// The bits of x * level as a multiplier rounds them to nearest, for every x. Exact where the product is representable, that is
// everywhere but overflow, because e >= 0. NaNs come back quiet (their sign and payload, which IEEE leaves open, are x's);
// infinity * 0 is NaN.
constexpr std::uint32_t exponent_add(std::uint32_t x, const PowerOfTwo &level) {
  const std::uint32_t magnitude = x & ~kSignBit;
  const std::uint32_t sign = (x ^ (level.negative ? kSignBit : 0)) & kSignBit;
  if (magnitude > kInfinity) return x | kQuiet;
  if (magnitude == kInfinity) return level.zero ? kInfinity | kQuiet : sign | kInfinity;
  if (level.zero || magnitude == 0) return sign;
  const auto e = static_cast<std::uint32_t>(level.exponent);
  if (magnitude >= kExponentOne) {
    const std::uint32_t moved = (magnitude >> 23) + e;
    return sign | (moved >= 255 ? kInfinity : magnitude + (e << 23));
  }
  // Subnormal: m * 2^-149. The mantissa moves up until its leading 1 is the hidden bit; what is left of e goes to the exponent.
  std::uint32_t mantissa = magnitude, left = e;
  for (; left > 0 && mantissa < kExponentOne; left--) mantissa <<= 1;
  return sign | (mantissa + (left << 23));
}

// Whether exponent_add is the plain sum of bits and (e << 23) + sign for every level up to 2^largest.
constexpr bool plain(std::uint32_t x, int largest) {
  const std::uint32_t exponent = (x & kInfinity) >> 23;
  return exponent >= 1 && exponent + static_cast<std::uint32_t>(largest) <= 254;
}

}  // namespace bitshift::simd
#endif
