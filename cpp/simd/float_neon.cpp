// Float products with NEON (AArch64).
#define BITSHIFT_ISA_NAMESPACE neon
#include <arm_neon.h>

#include <cstring>

#include "common.h"

namespace bitshift::simd::neon {
namespace {

struct FloatOps {
  static constexpr int kRows = 5;
  static constexpr bool kInRegisters = false;
  struct F {
    float32x4_t v[4];
  };
  template <class Each>
  static F each(Each of) {
    return {{of(0), of(1), of(2), of(3)}};
  }
  static F zero() {
    return each([](int) { return vdupq_n_f32(0); });
  }
  static F load(const float *p) {
    return each([p](int i) { return vld1q_f32(p + 4 * i); });
  }
  static void store(float *p, F a) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static F add(F a, F b) {
    return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
  }
  static F madd(F a, F b, F sum) {
    return each([&](int i) { return vfmaq_f32(sum.v[i], a.v[i], b.v[i]); });
  }
  static F madd(F a, const float *b, F sum) {
    const float32x4_t x = vld1q_dup_f32(b);
    return each([&](int i) { return vfmaq_f32(sum.v[i], a.v[i], x); });
  }
  template <bool Zeros>
  static F add_exponent(F addend, const std::uint32_t *x, const std::uint32_t *mask, F sum) {
    const uint32x4_t bits = vld1q_dup_u32(x), use = vld1q_dup_u32(mask);
    return each([&](int i) {
      const uint32x4_t a = vreinterpretq_u32_f32(addend.v[i]);
      uint32x4_t product = vaddq_u32(bits, vandq_u32(a, use));
      if constexpr (Zeros) product = vbicq_u32(product, vtstq_u32(a, vdupq_n_u32(1)));
      return vaddq_f32(sum.v[i], vreinterpretq_f32_u32(product));
    });
  }

  // ld4 takes the rows of a superblock apart: 16 lanes of input j, a byte each. Levels, and the addends of expadd.inc.h, are looked
  // up byte by byte in tables of up to 64.
  template <int Bits>
  struct Levels {
    static constexpr int kTables = Bits >= 7 ? 0 : Bits <= 4 ? 1 : 1 << (Bits - 4);
    std::uint8_t bytes[4][kTables ? 16 * kTables : 1];  // byte b of the float of every code

    explicit Levels(const float *levels) {
      for (int c = 0; c < 16 * kTables; c++) {
        std::uint8_t level[4];
        std::memcpy(level, levels + (c & ((1 << Bits) - 1)), 4);
        for (int b = 0; b < 4; b++) bytes[b][c] = level[b];
      }
    }

    struct Codes {
      uint8x16x4_t row[Bits];
    };
    static Codes codes(const std::uint8_t *packed) {
      Codes c;
      for (int r = 0; r < Bits; r++) c.row[r] = vld4q_u8(packed + 64 * r);
      return c;
    }

    F at(const Codes &c, int z, int j) const {
      const uint8x16_t code = code_of(c, z, j);
      if constexpr (Bits >= 7) {
        int8x16_t value = vreinterpretq_s8_u8(code);
        if constexpr (Bits == 7) value = vshrq_n_s8(vshlq_n_s8(value, 1), 1);
        const int16x8_t low = vmovl_s8(vget_low_s8(value)), high = vmovl_s8(vget_high_s8(value));
        return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                 vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
      } else {
        uint8x16_t b[4];
        for (int i = 0; i < 4; i++) b[i] = look_up(bytes[i], code);
        const uint8x16x2_t low = vzipq_u8(b[0], b[1]), high = vzipq_u8(b[2], b[3]);
        F out;
        for (int i = 0; i < 2; i++) {
          const uint16x8x2_t words = vzipq_u16(vreinterpretq_u16_u8(low.val[i]), vreinterpretq_u16_u8(high.val[i]));
          out.v[2 * i] = vreinterpretq_f32_u16(words.val[0]);
          out.v[2 * i + 1] = vreinterpretq_f32_u16(words.val[1]);
        }
        return out;
      }
    }

   private:
    static uint8x16_t look_up(const std::uint8_t *table, uint8x16_t code) {
      if constexpr (Bits <= 4) return vqtbl1q_u8(vld1q_u8(table), code);
      else if constexpr (Bits == 5) return vqtbl2q_u8({{vld1q_u8(table), vld1q_u8(table + 16)}}, code);
      else return vqtbl4q_u8({{vld1q_u8(table), vld1q_u8(table + 16), vld1q_u8(table + 32), vld1q_u8(table + 48)}}, code);
    }

    // `width` bits from bit `from` on, brought to bit `to`.
    static uint8x16_t field(uint8x16_t x, int from, int width, int to) {
      const uint8x16_t at_zero = vandq_u8(vshlq_u8(x, vdupq_n_s8(static_cast<std::int8_t>(-from))), vdupq_n_u8(static_cast<std::uint8_t>((1 << width) - 1)));
      return vshlq_u8(at_zero, vdupq_n_s8(static_cast<std::int8_t>(to)));
    }

    static uint8x16_t code_of(const Codes &c, int z, int j) {
      const auto row = [&](int r) { return c.row[r].val[j]; };
      if constexpr (Bits == 1) return field(row(0), z, 1, 0);
      else if constexpr (Bits == 2) return field(row(z / 4), 2 * (z % 4), 2, 0);
      else if constexpr (Bits == 3) {
        if (z < 6) return field(row(z / 2), 3 * (z % 2), 3, 0);
        return vorrq_u8(field(row(z - 6), 6, 2, 0), field(row(2), z, 1, 2));
      } else if constexpr (Bits == 8) {
        return row(z);
      } else {
        uint8x16_t code = field(row(z / 2), 4 * (z % 2), 4, 0);
        if constexpr (Bits >= 6) code = vorrq_u8(code, field(row(4 + z / 4), 2 * (z % 4), 2, 4));
        if constexpr (Bits % 2 == 1) code = vorrq_u8(code, field(row(Bits - 1), z, 1, Bits - 1));
        return code;
      }
    }
  };
};

}  // namespace
}  // namespace bitshift::simd::neon

#include "float.inc.h"

#include "expadd.inc.h"

namespace bitshift::simd::neon {

extern const FloatKernel *const float_kernels[] = {&f32_gemv, &f32_gemm, &f32_expadd, &f32_conv, nullptr};

}  // namespace bitshift::simd::neon
