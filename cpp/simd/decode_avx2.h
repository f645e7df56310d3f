// Packed codes to signed bytes in registers, AVX2: half a superblock (8 outputs x 32 inputs: 32 bytes of each of its 64-byte rows,
// layout in pack.h) becomes 8 vectors, step z's being 8 lanes x 4 consecutive inputs.
//
// pshufb looks up bits 0-3 of a byte in a table of 16, and gives 0 where bit 7 is set. Up to 4 bits, the table is written for the
// place of a code among its neighbours, so that two codes of 2 bits (four of 1) need one mask between them. With 5 to 8 bits
// there are 2 to 16 tables, and the upper bits of the code choose by vpblendvb, which looks at bit 7 alone. Shifts are 16-bit ones:
// what they draw in from the neighbour is masked, or falls on bits that nobody looks at.
#ifndef BITSHIFT_SIMD_DECODE_AVX2_H
#define BITSHIFT_SIMD_DECODE_AVX2_H

#include <immintrin.h>

#include "common.h"
#include "each.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

template <int Count>
BITSHIFT_INLINE __m256i shift_left(__m256i x) {
  if constexpr (Count > 0) return _mm256_slli_epi16(x, Count);
  else if constexpr (Count < 0) return _mm256_srli_epi16(x, -Count);
  else return x;
}

template <int Bits>
constexpr int kPlaces = Bits == 1 ? 4 : Bits == 2 ? 2 : 1;  // of a code in the four bits that are looked up
template <int Bits>
constexpr int kTables = Bits <= 4 ? kPlaces<Bits> : 1 << (Bits - 4);

// The code of step Z in the half whose first byte is at `p`: up to 4 bits ready for look-up in table Z % kPlaces, bits 4-7 zero
// (3 bits: so is bit 3); else the code as it is.
template <int Bits, int Z>
BITSHIFT_INLINE __m256i code_of(const std::uint8_t *p) {
  const auto row = [p](int r) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 64 * r)); };
  const auto only = [](__m256i x, int bits) { return _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>(bits))); };
  if constexpr (Bits == 1) {
    return only(shift_left<-(Z / 4 * 4)>(row(0)), 15);
  } else if constexpr (Bits == 2) {
    return only(shift_left<-(Z % 4 / 2 * 4)>(row(Z / 4)), 15);
  } else if constexpr (Bits == 3) {
    if constexpr (Z < 6) return only(shift_left<-(Z % 2 * 3)>(row(Z / 2)), 7);
    else return _mm256_or_si256(only(shift_left<-6>(row(Z - 6)), 3), only(shift_left<-(Z - 2)>(row(2)), 4));
  } else if constexpr (Bits == 8) {
    return row(Z);
  } else {
    __m256i code = only(shift_left<-(Z % 2 * 4)>(row(Z / 2)), 15);
    if constexpr (Bits == 6 || Bits == 7) code = _mm256_or_si256(code, only(shift_left<4 - Z % 4 * 2>(row(4 + Z / 4)), 0x30));
    if constexpr (Bits == 5 || Bits == 7)
      code = _mm256_or_si256(code, only(shift_left<Bits - 1 - Z>(row(Bits == 5 ? 4 : 6)), 1 << (Bits - 1)));
    return code;
  }
}

// The look-up of one plane.
template <int Bits>
struct LevelTable {
  __m256i table[kTables<Bits>];

  LevelTable() = default;
  explicit LevelTable(const std::int8_t *levels) {  // by code
    each<kTables<Bits>>([&](auto t) __attribute__((always_inline)) {
      alignas(32) std::int8_t bytes[32];
      for (int i = 0; i < 16; ++i) {
        const int code = Bits <= 4 ? (i >> (t.value * Bits)) & ((1 << Bits) - 1) : 16 * t.value + i;
        bytes[i] = bytes[16 + i] = levels[code];
      }
      table[t.value] = _mm256_load_si256(reinterpret_cast<const __m256i *>(bytes));
    });
  }

  template <int Z>
  BITSHIFT_INLINE __m256i look_up(__m256i code) const {
    if constexpr (Bits <= 4) {
      return _mm256_shuffle_epi8(table[Z % kPlaces<Bits>], code);
    } else {
      const __m256i low = Bits == 8 ? _mm256_and_si256(code, _mm256_set1_epi8(15)) : code;
      return choose<0, Bits>(code, low);
    }
  }

 private:
  // Among the tables from First on that differ in bits 4..End-1 of the code.
  template <int First, int End>
  BITSHIFT_INLINE __m256i choose(__m256i code, __m256i low) const {
    if constexpr (End == 4) {
      return _mm256_shuffle_epi8(table[First], low);
    } else {
      const __m256i without = choose<First, End - 1>(code, low), with = choose<First + (1 << (End - 5)), End - 1>(code, low);
      return _mm256_blendv_epi8(without, with, shift_left<8 - End>(code));
    }
  }
};

// Any width, chosen at run time: what conv.inc.h decodes panels with.
class LevelDecoder {
 public:
  LevelDecoder(const Weights &w, int plane) : levels_(w.table[plane]), bits_(w.format->bits) {}

  void operator()(const std::uint8_t *packed, std::int64_t supers, std::int8_t *to, std::int64_t step_bytes) const {
    with_width(bits_, [&](auto bits) { decode<decltype(bits)::value>(packed, supers, to, step_bytes); });
  }

 private:
  const std::int8_t *levels_;
  int bits_;

  template <int Bits>
  void decode(const std::uint8_t *packed, std::int64_t supers, std::int8_t *to, std::int64_t step_bytes) const {
    const LevelTable<Bits> levels(levels_);
    for (std::int64_t s = 0; s < supers; ++s, packed += 64 * Bits, to += 8 * step_bytes)
      for (int half = 0; half < 64; half += 32)
        each<8>([&](auto z) __attribute__((always_inline)) {
          const __m256i step = levels.template look_up<z.value>(code_of<Bits, z.value>(packed + half));
          _mm256_store_si256(reinterpret_cast<__m256i *>(to + z.value * step_bytes + half), step);
        });
  }
};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
