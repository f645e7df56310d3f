// 16 int32 lanes in four NEON registers: what requant.inc.h and winograd.inc.h need of an instruction set (see vec_avx512.h).
#ifndef BITSHIFT_SIMD_VEC_NEON_H
#define BITSHIFT_SIMD_VEC_NEON_H

#include <arm_neon.h>

#include "common.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

struct Vec {
  static constexpr int kBytes = 16;  // of a register
  struct I {
    int32x4_t q[4];  // lanes 0-3, 4-7, 8-11, 12-15; all arithmetic wraps
  };

  static I set(std::int32_t v) { return {{vdupq_n_s32(v), vdupq_n_s32(v), vdupq_n_s32(v), vdupq_n_s32(v)}}; }
  static I load(const std::int32_t *p) { return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}}; }
  static void store(std::int32_t *p, I v) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, v.q[i]);
  }
  // v, in registers.
  static I pin(I v) {
    for (auto &q : v.q) asm("" : "+w"(q));
    return v;
  }
  static I add(I a, I b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); }); }
  static I sub(I a, I b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vsubq_s32(x, y); }); }
  static I mul(I a, I b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vmulq_s32(x, y); }); }
  static I min(I a, I b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vminq_s32(x, y); }); }
  static I max(I a, I b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vmaxq_s32(x, y); }); }
  // Counts 0..62: 32 and more give 0, or the sign. SSHL reads the low byte of a count; a negative one shifts right.
  static I shl(I a, I count) { return each(a, count, [](int32x4_t x, int32x4_t n) { return vshlq_s32(x, n); }); }
  static I sar(I a, I count) { return each(a, count, [](int32x4_t x, int32x4_t n) { return vshlq_s32(x, vnegq_s32(n)); }); }
  template <int N>
  static I sar(I a) {
    return each(a, a, [](int32x4_t x, int32x4_t) { return vshrq_n_s32(x, N); });
  }

  // 16 elements, widened. All 16 may be read, whatever the number of outputs: maps have slack behind them.
  static I load_u8(const std::uint8_t *p) {
    const uint8x16_t b = vld1q_u8(p);
    return widen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b))), vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(b))));
  }
  static I load_i8(const std::uint8_t *p) {
    const int8x16_t b = vreinterpretq_s8_u8(vld1q_u8(p));
    return widen(vmovl_s8(vget_low_s8(b)), vmovl_s8(vget_high_s8(b)));
  }
  static I load_i16(const std::uint8_t *p) { return widen(vreinterpretq_s16_u8(vld1q_u8(p)), vreinterpretq_s16_u8(vld1q_u8(p + 16))); }
  static I load_i32(const std::uint8_t *p) {
    I v;
    for (int i = 0; i < 4; ++i) v.q[i] = vreinterpretq_s32_u8(vld1q_u8(p + 16 * i));
    return v;
  }

  // The low 1, 2 or 4 bytes of the first `lanes` lanes.
  static void store_8(std::uint8_t *p, I v, int lanes) {
    const int8x8_t low = vmovn_s16(vcombine_s16(vmovn_s32(v.q[0]), vmovn_s32(v.q[1])));
    const int8x8_t high = vmovn_s16(vcombine_s16(vmovn_s32(v.q[2]), vmovn_s32(v.q[3])));
    put(p, vcombine_s8(low, high), lanes);
  }
  static void store_16(std::uint8_t *p, I v, int lanes) {
    const int16x8_t words[2] = {vcombine_s16(vmovn_s32(v.q[0]), vmovn_s32(v.q[1])), vcombine_s16(vmovn_s32(v.q[2]), vmovn_s32(v.q[3]))};
    put(p, words, 2 * lanes);
  }
  static void store_32(std::uint8_t *p, I v, int lanes) { put(p, v, 4 * lanes); }

  // clamp((acc*mult + offset + (res << res_shift)) >> shift, lo, hi) in 64 bits.
  static I wide(I acc, I res, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    I v;
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * i;
      v.q[i] = vcombine_s32(pair(vget_low_s32(acc.q[i]), vget_low_s32(res.q[i]), mult + c, offset + c, res_shift + c, shift + c, lo, hi),
                            pair(vget_high_s32(acc.q[i]), vget_high_s32(res.q[i]), mult + c + 2, offset + c + 2, res_shift + c + 2,
                                 shift + c + 2, lo, hi));
    }
    return v;
  }

  // Four vectors to 64 bytes in their order, each saturated to what a byte holds and clamped.
  struct Clamp {
    uint8x16_t lo, hi, flip;
    bool with_sign;
  };
  static Clamp clamp_of(const Requant &q) {
    const auto byte = [&](std::int32_t v) { return vdupq_n_u8(static_cast<std::uint8_t>(v + q.out_zero)); };
    return {byte(q.lo), byte(q.hi), vdupq_n_u8(q.out_zero), q.out_zero != 0};
  }
  struct Bytes {
    uint8x16_t quarter[4];
  };
  static Bytes pack(I a, I b, I c, I d, const Clamp &k) { return {{pack_one(a, k), pack_one(b, k), pack_one(c, k), pack_one(d, k)}}; }
  // The first `count` bytes of quarter `index` (count <= 16), or of half `index` (count <= 32).
  static void store_quarter(std::uint8_t *p, const Bytes &v, int index, int count) { put(p, v.quarter[index], count); }
  static void store_half(std::uint8_t *p, const Bytes &v, int index, int count) {
    const uint8x16_t half[2] = {v.quarter[2 * index], v.quarter[2 * index + 1]};
    put(p, half, count);
  }

 private:
  template <class F>
  static I each(I a, I b, F f) {
    return {{f(a.q[0], b.q[0]), f(a.q[1], b.q[1]), f(a.q[2], b.q[2]), f(a.q[3], b.q[3])}};
  }

  static I widen(int16x8_t low, int16x8_t high) {
    return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))}};
  }

  // The first `bytes` bytes of v; all of them are plain stores.
  template <class V>
  static void put(std::uint8_t *p, const V &v, int bytes) {
    if (bytes == static_cast<int>(sizeof v)) __builtin_memcpy(p, &v, sizeof v);
    else __builtin_memcpy(p, &v, static_cast<std::size_t>(bytes));
  }

  static uint8x16_t pack_one(I v, const Clamp &k) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(v.q[0]), vqmovn_s32(v.q[1])), high = vcombine_s16(vqmovn_s32(v.q[2]), vqmovn_s32(v.q[3]));
    const uint8x16_t bytes = k.with_sign ? veorq_u8(vreinterpretq_u8_s8(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))), k.flip)
                                         : vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
    return vminq_u8(vmaxq_u8(bytes, k.lo), k.hi);
  }

  static int32x2_t pair(int32x2_t acc, int32x2_t res, const std::int32_t *mult, const std::int64_t *offset, const std::int32_t *res_shift,
                        const std::int32_t *shift, std::int32_t lo, std::int32_t hi) {
    const auto two = [](const std::int32_t *p) { return vmovl_s32(vld1_s32(p)); };
    int64x2_t v = vaddq_s64(vmull_s32(acc, vld1_s32(mult)), vld1q_s64(offset));
    v = vaddq_s64(v, vshlq_s64(vmovl_s32(res), two(res_shift)));
    v = vshlq_s64(v, vnegq_s64(two(shift)));
    const int64x2_t least = vdupq_n_s64(lo), most = vdupq_n_s64(hi);
    v = vbslq_s64(vcgtq_s64(least, v), least, v);
    v = vbslq_s64(vcgtq_s64(v, most), most, v);
    return vmovn_s64(v);
  }
};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
