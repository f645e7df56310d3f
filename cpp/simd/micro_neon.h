// Micro-kernels of 8-bit products, NEON with the dot product extension.
//
// sdot multiplies signed bytes with signed bytes, while maps hold unsigned ones: 128 is taken off each (a flipped top bit), and
// 128 * (sum of the panel's levels) put back once a tile, which is as long as one pixel more. usdot would do without; processors
// that have it (Armv8.6) are few.
#ifndef BITSHIFT_SIMD_MICRO_NEON_H
#define BITSHIFT_SIMD_MICRO_NEON_H

#include <arm_neon.h>

#include <cstring>

#include "decode_neon.h"
#include "micro.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kRun = 7, kBlocks = 2, kLimit = 127;
constexpr bool kFused = false;  // sums lie in memory
// Named by conv.inc.h, never called.
QuickKernel quick_kernel(int run, int groups, int blocks);
bool can_decode_first(const Weights &w, int blocks);
void decode_first(const Weights &w, const std::uint8_t *packed, int run, const MicroArgs &a, std::int8_t *panel);

// Four inputs in all lanes, less 128.
BITSHIFT_INLINE int8x16_t four_inputs(const std::uint8_t *p) {
  std::uint32_t four;
  std::memcpy(&four, p, sizeof four);
  return vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
}

// sum << 7, and more planes below: what 128 times the levels' sum adds to every pixel of a panel.
template <int Blocks>
__attribute__((noinline)) void micro_levels(const MicroArgs &a, const std::int8_t *panel, std::int32_t *total) {
  constexpr int kVectors = 4 * Blocks;
  const int8x16_t ones = vdupq_n_s8(1);
  int32x4_t sum[kVectors];
  for (auto &s : sum) s = vdupq_n_s32(0);
  for (int plane = 0; plane < a.planes; ++plane) {
    if (plane > 0)
      for (auto &s : sum) s = vshlq_s32(s, vdupq_n_s32(a.shift[plane - 1]));
    for (std::int64_t step = 0; step < a.count * a.steps; ++step, panel += 16 * kVectors)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[v] = vdotq_s32(sum[v], vld1q_s8(panel + 16 * v), ones);
  }
  for (int v = 0; v < kVectors; ++v) vst1q_s32(total + 4 * v, vshlq_n_s32(sum[v], 7));
}

// `Pixels` pixels through all planes and segments; the sums begin with `levels`.
template <int Pixels, int Blocks>
__attribute__((noinline)) void micro_pixels(const MicroArgs &a, const std::uint8_t *const *pixels, const std::int8_t *panel,
                                            const std::int32_t *levels, std::int32_t *sums) {
  constexpr int kVectors = 4 * Blocks;
  int32x4_t sum[Pixels][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[m][v] = vdupq_n_s32(0);
  for (int plane = 0; plane < a.planes; ++plane) {
    if (plane > 0) {
      const int32x4_t shift = vdupq_n_s32(a.shift[plane - 1]);
#pragma GCC unroll 8
      for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[m][v] = vshlq_s32(sum[m][v], shift);
    }
    for (std::int64_t s = 0; s < a.count; ++s) {
      const std::int64_t from = a.segments[s];
      for (std::int64_t at = from; at < from + a.steps * kStep; at += kStep, panel += 16 * kVectors) {
        int8x16_t bytes[Pixels];
#pragma GCC unroll 8
        for (int m = 0; m < Pixels; ++m) bytes[m] = four_inputs(pixels[m] + at);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const int8x16_t w = vld1q_s8(panel + 16 * v);
#pragma GCC unroll 8
          for (int m = 0; m < Pixels; ++m) sum[m][v] = vdotq_s32(sum[m][v], w, bytes[m]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) vst1q_s32(sums + 4 * (m * kVectors + v), vaddq_s32(sum[m][v], vld1q_s32(levels + 4 * v)));
}

template <int Blocks>
inline void tile_sums(const MicroArgs &a, int run, int groups) {
  constexpr int kPixels = Blocks == 1 ? 5 : 2;  // 20 or 16 sums of the 32 registers
  const int count = run * groups;
  const std::uint8_t *pixels[2 * kRun];
  for (int g = 0; g < groups; ++g)
    for (int m = 0; m < run; ++m) pixels[g * run + m] = a.pixels[g] + m * a.stride;
  const std::int8_t *panel = a.panel;
  std::int32_t *sums = a.sums, levels[Blocks * kLanes];
  for (std::int64_t r = 0; r < a.repeats; ++r, panel += a.skip + a.planes * a.count * a.steps * Blocks * 64, sums += count * Blocks * kLanes) {
    micro_levels<Blocks>(a, panel, levels);
    int m = 0;
    for (; m + kPixels <= count; m += kPixels) micro_pixels<kPixels, Blocks>(a, pixels + m, panel, levels, sums + m * Blocks * kLanes);
    for (; m < count; ++m) micro_pixels<1, Blocks>(a, pixels + m, panel, levels, sums + m * Blocks * kLanes);
    for (int i = 0; i < count; ++i) pixels[i] += a.advance;
  }
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "micro_table.inc.h"

#endif
