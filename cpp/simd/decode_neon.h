// Packed codes to signed bytes in registers, NEON: a quarter of a superblock (4 outputs x 32 inputs: 16 bytes of each of its
// 64-byte rows, layout in pack.h) becomes 8 vectors, step z's being 4 lanes x 4 consecutive inputs.
//
// Shifts are 8-bit ones, so that a code is one shift and one mask; tbl looks it up in 1, 2 or 4 registers, and gives 0 (tbx: leaves
// the byte alone) beyond them, which is how tables of 128 and 256 levels are searched 64 at a time.
#ifndef BITSHIFT_SIMD_DECODE_NEON_H
#define BITSHIFT_SIMD_DECODE_NEON_H

#include <arm_neon.h>

#include "common.h"
#include "each.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

// Left by Count, or right by -Count.
template <int Count>
BITSHIFT_INLINE uint8x16_t shift_bytes(uint8x16_t x) {
  if constexpr (Count > 0) return vshlq_n_u8(x, Count);
  else if constexpr (Count < 0) return vshrq_n_u8(x, -Count);
  else return x;
}

// The code of step Z in the quarter whose first byte is at `p`.
template <int Bits, int Z>
BITSHIFT_INLINE uint8x16_t code_of(const std::uint8_t *p) {
  const auto row = [p](int r) { return vld1q_u8(p + 64 * r); };
  const auto only = [](uint8x16_t x, int bits) { return vandq_u8(x, vdupq_n_u8(static_cast<std::uint8_t>(bits))); };
  if constexpr (Bits == 1) {
    return only(shift_bytes<-Z>(row(0)), 1);
  } else if constexpr (Bits == 2) {
    return only(shift_bytes<-(Z % 4 * 2)>(row(Z / 4)), 3);
  } else if constexpr (Bits == 3) {
    if constexpr (Z < 6) return only(shift_bytes<-(Z % 2 * 3)>(row(Z / 2)), 7);
    else return vorrq_u8(shift_bytes<-6>(row(Z - 6)), only(shift_bytes<-(Z - 2)>(row(2)), 4));
  } else if constexpr (Bits == 8) {
    return row(Z);
  } else {
    uint8x16_t code = only(shift_bytes<-(Z % 2 * 4)>(row(Z / 2)), 15);
    if constexpr (Bits == 6 || Bits == 7) code = vorrq_u8(code, only(shift_bytes<4 - Z % 4 * 2>(row(4 + Z / 4)), 0x30));
    if constexpr (Bits == 5 || Bits == 7) code = vorrq_u8(code, only(shift_bytes<Bits - 1 - Z>(row(Bits == 5 ? 4 : 6)), 1 << (Bits - 1)));
    return code;
  }
}

// The look-up of one plane.
template <int Bits>
class LevelTable {
 public:
  LevelTable() = default;
  explicit LevelTable(const std::int8_t *levels) {  // by code
    std::uint8_t bytes[kRegisters * 16] = {};
    for (int code = 0; code < 1 << Bits; ++code) bytes[code] = static_cast<std::uint8_t>(levels[code]);
    for (int r = 0; r < kRegisters; ++r) table_[r] = vld1q_u8(bytes + 16 * r);
  }

  BITSHIFT_INLINE int8x16_t look_up(uint8x16_t code) const {
    uint8x16_t found;
    if constexpr (kRegisters == 1) {
      found = vqtbl1q_u8(table_[0], code);
    } else if constexpr (kRegisters == 2) {
      found = vqtbl2q_u8({{table_[0], table_[1]}}, code);
    } else {
      found = vqtbl4q_u8({{table_[0], table_[1], table_[2], table_[3]}}, code);
#pragma GCC unroll 3
      for (int r = 4; r < kRegisters; r += 4) {
        code = vsubq_u8(code, vdupq_n_u8(64));
        found = vqtbx4q_u8(found, {{table_[r], table_[r + 1], table_[r + 2], table_[r + 3]}}, code);
      }
    }
    return vreinterpretq_s8_u8(found);
  }

 private:
  static constexpr int kRegisters = Bits <= 4 ? 1 : 1 << (Bits - 4);
  uint8x16_t table_[kRegisters];
};

// Any width, chosen at run time: what panels are decoded with.
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
      for (int quarter = 0; quarter < 64; quarter += 16)
        each<8>([&](auto z) __attribute__((always_inline)) {
          vst1q_s8(to + z.value * step_bytes + quarter, levels.look_up(code_of<Bits, z.value>(packed + quarter)));
        });
  }
};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
