// Packed codes to signed bytes in registers, AVX-512 VBMI: one superblock (16 outputs x 32 inputs, 64 * bits bytes, layout in
// pack.h) becomes 8 vectors, step z's being 16 lanes x 4 consecutive inputs.
//
// vpermb looks up the low 6 bits of every byte and ignores the rest, so a code that lies at bits 1-3 of a byte needs no shift
// and no mask: the 64-entry table is written for its place, `place` below, and repeats over the bits of its neighbours. A shift
// is a 16-bit one; what it draws in from the next byte also falls on ignored bits. Cost in shifts and selects beside the 8
// look-ups of a plane: 1 bit 1+0, 2 bits 2+0, 3 bits 3+2, 4 bits 4+0, 5 bits 9+8, 6 bits 10+8, 7 bits 17+16, 8 bits none (but 4
// instructions a look-up).
#ifndef BITSHIFT_SIMD_DECODE_AVX512_H
#define BITSHIFT_SIMD_DECODE_AVX512_H

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 takes the "any value will do" operands of its own intrinsics for a mistake of ours (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "common.h"

namespace bitshift::simd::avx512 {

// Bit i of mask set: bit i of `yes`, else of `no`.
inline __m512i select_bits(__m512i mask, __m512i yes, __m512i no) { return _mm512_ternarylogic_epi32(mask, yes, no, 0xCA); }

// Where the tables of a width differ, and which one step z looks up.
template <int Bits>
struct CodePlaces;
template <>
struct CodePlaces<1> {  // bit p of the index
  static constexpr int kTables = 6;
  static constexpr int of(int z) { return z < 6 ? z : z - 2; }
  static constexpr int code(int place, int index) { return (index >> place) & 1; }
};
template <>
struct CodePlaces<2> {  // bits 0-1, 2-3, 4-5
  static constexpr int kTables = 3;
  static constexpr int of(int z) { return (z & 3) < 3 ? (z & 3) : 2; }
  static constexpr int code(int place, int index) { return (index >> (2 * place)) & 3; }
};
template <>
struct CodePlaces<3> {  // bits 0-2, 3-5; step 6: low bits at 4-5, high bit at 3; step 7: low bits at 2-3, high bit at 4
  static constexpr int kTables = 4;
  static constexpr int of(int z) { return z < 6 ? (z & 1) : z - 4; }
  static constexpr int code(int place, int index) {
    return place < 2 ? (index >> (3 * place)) & 7
                     : place == 2 ? ((index >> 4) & 3) | ((index >> 3) & 1) << 2 : ((index >> 2) & 3) | ((index >> 4) & 1) << 2;
  }
};
template <>
struct CodePlaces<4> {
  static constexpr int kTables = 1;
  static constexpr int of(int) { return 0; }
  static constexpr int code(int, int index) { return index & 15; }
};
template <>
struct CodePlaces<5> {
  static constexpr int kTables = 1;
  static constexpr int of(int) { return 0; }
  static constexpr int code(int, int index) { return index & 31; }
};
template <>
struct CodePlaces<6> {
  static constexpr int kTables = 1;
  static constexpr int of(int) { return 0; }
  static constexpr int code(int, int index) { return index; }
};
template <>
struct CodePlaces<7> {  // two halves of 64
  static constexpr int kTables = 2;
  static constexpr int of(int) { return 0; }
  static constexpr int code(int place, int index) { return 64 * place + index; }
};
template <>
struct CodePlaces<8> {  // four quarters
  static constexpr int kTables = 4;
  static constexpr int of(int) { return 0; }
  static constexpr int code(int place, int index) { return 64 * place + index; }
};

// index[z]: what a table of CodePlaces<Bits> is looked up with.
template <int Bits>
inline void code_indices(const std::uint8_t *p, __m512i index[8]) {
  const auto row = [p](int r) {
    __m512i x = _mm512_loadu_si512(p + 64 * r);
    asm("" : "+v"(x));  // gcc would rather load a row once for each use
    return x;
  };
  if constexpr (Bits == 1) {
    const __m512i x = row(0), high = _mm512_srli_epi16(x, 2);
    for (int z = 0; z < 8; z++) index[z] = z < 6 ? x : high;
  } else if constexpr (Bits == 2) {
    for (int r = 0; r < 2; r++) {
      const __m512i x = row(r);
      index[4 * r] = index[4 * r + 1] = index[4 * r + 2] = x;
      index[4 * r + 3] = _mm512_srli_epi16(x, 2);
    }
  } else if constexpr (Bits == 3) {
    const __m512i a = row(0), b = row(1), c = row(2), c3 = _mm512_srli_epi16(c, 3);
    index[0] = index[1] = a;
    index[2] = index[3] = b;
    index[4] = index[5] = c;
    index[6] = select_bits(_mm512_set1_epi8(0x08), c3, _mm512_srli_epi16(a, 2));
    index[7] = select_bits(_mm512_set1_epi8(0x10), c3, _mm512_srli_epi16(b, 4));
  } else if constexpr (Bits == 8) {
    for (int z = 0; z < 8; z++) index[z] = row(z);
  } else {
    for (int r = 0; r < 4; r++) {
      index[2 * r] = row(r);
      index[2 * r + 1] = _mm512_srli_epi16(index[2 * r], 4);
    }
    if constexpr (Bits == 6 || Bits == 7) {  // bits 4-5
      const __m512i mask = _mm512_set1_epi8(0x30);
      for (int r = 0; r < 2; r++) {
        const __m512i x = row(4 + r);
        index[4 * r] = select_bits(mask, _mm512_slli_epi16(x, 4), index[4 * r]);
        index[4 * r + 1] = select_bits(mask, _mm512_slli_epi16(x, 2), index[4 * r + 1]);
        index[4 * r + 2] = select_bits(mask, x, index[4 * r + 2]);
        index[4 * r + 3] = select_bits(mask, _mm512_srli_epi16(x, 2), index[4 * r + 3]);
      }
    }
    if constexpr (Bits == 5 || Bits == 7) {  // the highest bit
      constexpr int at = Bits - 1;
      const __m512i mask = _mm512_set1_epi8(1 << at), x = row(Bits == 5 ? 4 : 6);
      for (int z = 0; z < 8; z++) {
        const __m512i bit = z < at ? _mm512_slli_epi16(x, static_cast<unsigned>(at - z))
                                   : _mm512_srli_epi16(x, static_cast<unsigned>(z - at));
        index[z] = select_bits(mask, bit, index[z]);
      }
    }
  }
}

// The look-up of one plane. Tables stay in registers over a loop for up to 6 bits.
template <int Bits>
struct LevelTable {
  using Places = CodePlaces<Bits>;
  __m512i table[Places::kTables];

  struct Codes {  // the code that an index means at each place
    alignas(64) std::uint8_t at[Places::kTables][64];
  };
  static constexpr Codes codes() {
    Codes c{};
    for (int place = 0; place < Places::kTables; place++)
      for (int i = 0; i < 64; i++) c.at[place][i] = static_cast<std::uint8_t>(Places::code(place, i));
    return c;
  }
  static constexpr Codes kCodes = codes();

  explicit LevelTable(const __m512i *made) {  // `table` of another one
    for (int place = 0; place < Places::kTables; place++) table[place] = made[place];
  }
  explicit LevelTable(const std::int8_t *levels) {  // by code, 256 entries
    for (int place = 0; place < Places::kTables; place++) {
      if constexpr (Bits >= 6) {
        table[place] = _mm512_loadu_si512(levels + 64 * place);
      } else {
        table[place] = _mm512_permutexvar_epi8(_mm512_load_si512(kCodes.at[place]), _mm512_loadu_si512(levels));
      }
    }
  }

  __m512i look_up(__m512i index, int z) const {
    if constexpr (Bits == 7) {
      return _mm512_permutex2var_epi8(table[0], index, table[1]);
    } else if constexpr (Bits == 8) {
      const __m512i low = _mm512_permutex2var_epi8(table[0], index, table[1]);
      const __m512i high = _mm512_permutex2var_epi8(table[2], index, table[3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    } else {
      return _mm512_permutexvar_epi8(index, table[Places::of(z)]);
    }
  }
};

}  // namespace bitshift::simd::avx512
#endif
