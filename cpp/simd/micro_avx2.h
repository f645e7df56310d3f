// Panels and micro-kernels with 16 registers of 256 bits: AVX2 (vpmaddubsw) and, where BITSHIFT_DPBUSD names the intrinsic, the
// 256-bit vpdpbusd of AVX-VNNI or AVX-512 VL.
//
// vpmaddubsw adds two products of a byte and a signed byte to an int16, saturating. With levels up to 8 and bytes up to 255, 8
// of its results (16 products of at most 2040) add up to 32640 at most: so results are added as int16, and only every
// MicroArgs::burst[plane] steps vpmaddwd widens the pair sums and adds them to int32 sums in memory. That is 2 instructions for
// 32 products and a few behind every burst, where the usual chain (vpmaddubsw, vpmaddwd, vpaddd) takes 3, of which only two a
// cycle can be multiplications. At a burst of 1 the usual chain is the better one. Levels of both signs, few of them the largest,
// nearly always leave room for twice as many steps: fit_bursts proves it for a panel by its levels.
//
// Sums live in memory, so a tile's order is free: the steps of a burst go over all pixels of the tile before the next ones, and
// a panel that is larger than L1 is read once a tile, not once a pixel. A register tile is 2 pixels x 32 outputs (4 x 16).
#ifndef BITSHIFT_SIMD_MICRO_AVX2_H
#define BITSHIFT_SIMD_MICRO_AVX2_H

#include <immintrin.h>

#include <cstring>

#include "decode_avx2.h"
#include "micro.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kRun = 7, kBlocks = 2;
constexpr bool kFused = false;  // sums lie in memory
// Named by conv.inc.h, never called.
QuickKernel quick_kernel(int run, int groups, int blocks);
bool can_decode_first(const Weights &w, int blocks);
void decode_first(const Weights &w, const std::uint8_t *packed, int run, const MicroArgs &a, std::int8_t *panel);

// How a register of sums takes a step: `first` and `add` by 32 products, `total` as 8 int32. kPixels: of a register tile that is
// `Vectors` registers of outputs wide. kFirst: sums begin with `first`, not with zeros. kUnroll: most steps without a branch.
#if defined(BITSHIFT_DPBUSD)
constexpr int kLimit = 127;

struct Quads {
  template <int Vectors>
  static constexpr int kPixels = 12 / Vectors;  // 12 sums: 2 a cycle, each 4 to 5 cycles
  static constexpr std::int64_t kBurst = 64;    // steps whose weights stay in L1 beside everything else
  static constexpr bool kFirst = false;         // it saves nothing, and takes a register of zeros
  static constexpr int kUnroll = 1;             // all registers are taken: none is free for loads of the next step
  BITSHIFT_INLINE static __m256i first(__m256i bytes, __m256i weights) { return add(_mm256_setzero_si256(), bytes, weights); }
  BITSHIFT_INLINE static __m256i add(__m256i sum, __m256i bytes, __m256i weights) { return BITSHIFT_DPBUSD(sum, bytes, weights); }
  BITSHIFT_INLINE static __m256i total(__m256i sum) { return sum; }
};
#else
constexpr int kLimit = 64;

struct Quads {
  template <int Vectors>
  static constexpr int kPixels = 8 / Vectors;
  static constexpr std::int64_t kBurst = 32;
  static constexpr bool kFirst = true;
  static constexpr int kUnroll = 1;
  BITSHIFT_INLINE static __m256i first(__m256i bytes, __m256i weights) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, weights), _mm256_set1_epi16(1));
  }
  BITSHIFT_INLINE static __m256i add(__m256i sum, __m256i bytes, __m256i weights) { return _mm256_add_epi32(sum, first(bytes, weights)); }
  BITSHIFT_INLINE static __m256i total(__m256i sum) { return sum; }
};

struct Pairs {
  template <int Vectors>
  static constexpr int kPixels = 8 / Vectors;
  static constexpr bool kFirst = true;
  static constexpr int kUnroll = 8;
  BITSHIFT_INLINE static __m256i first(__m256i bytes, __m256i weights) { return _mm256_maddubs_epi16(bytes, weights); }
  BITSHIFT_INLINE static __m256i add(__m256i sum, __m256i bytes, __m256i weights) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, weights));
  }
  BITSHIFT_INLINE static __m256i total(__m256i sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
};
#endif

// Four inputs in all lanes.
BITSHIFT_INLINE __m256i four_inputs(const std::uint8_t *p) {
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}

// Step At from where pixels and weights point to, of a register tile.
template <class How, int At, bool First, int Pixels, int Vectors>
BITSHIFT_INLINE void step(__m256i (&sum)[Pixels][Vectors], const std::uint8_t *const (&p)[Pixels], const std::int8_t *weights) {
  const auto weights_of = [&](int v) __attribute__((always_inline)) {
    __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i *>(weights) + At * Vectors + v);
    asm("" : "+x"(w));  // one load for all pixels
    return w;
  };
  const auto take = [&](int m, int v, __m256i bytes, __m256i w) __attribute__((always_inline)) {
    sum[m][v] = First ? How::first(bytes, w) : How::add(sum[m][v], bytes, w);
    asm("" : "+x"(sum[m][v]));  // gcc would add the steps' products to each other first, and run out of registers
  };
  if constexpr (Pixels <= Vectors) {  // what there is less of stays in registers
    __m256i bytes[Pixels];
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m) bytes[m] = four_inputs(p[m] + At * kStep);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      const __m256i w = weights_of(v);
#pragma GCC unroll 8
      for (int m = 0; m < Pixels; ++m) take(m, v, bytes[m], w);
    }
  } else {
    __m256i w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) w[v] = weights_of(v);
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m) {
      const __m256i bytes = four_inputs(p[m] + At * kStep);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) take(m, v, bytes, w[v]);
    }
  }
}

// Count steps, unrolled; pixels and weights go on.
template <class How, int Count, bool First, int Pixels, int Vectors>
BITSHIFT_INLINE void steps(__m256i (&sum)[Pixels][Vectors], const std::uint8_t *(&p)[Pixels], const std::int8_t *&weights) {
  each<Count>([&](auto k) __attribute__((always_inline)) { step<How, k.value, First && k.value == 0>(sum, p, weights); });
#pragma GCC unroll 8
  for (int m = 0; m < Pixels; ++m) {
    p[m] += Count * kStep;
    asm("" : "+r"(p[m]));
  }
  weights += Count * 32 * Vectors;
}

// The steps of one burst: `steps` from byte `at` on of each of `count` segments.
struct Burst {
  const std::int64_t *segments;
  std::int64_t count, at, steps;
  const std::int8_t *weights;
};

// Adds a burst to the sums of some pixels, or sets them. Unroll: steps come in multiples of it, or it is 1.
template <class How, int Unroll, int Vectors, int Pixels>
BITSHIFT_INLINE void burst_sums(const Burst &b, const std::uint8_t *const *pixels, bool set, std::int32_t *sums) {
  __m256i sum[Pixels][Vectors];
  const std::uint8_t *p[Pixels];
  const std::int8_t *weights = b.weights;
  const auto go_to = [&](std::int64_t s) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m) p[m] = pixels[m] + b.segments[s] + b.at;
  };
  go_to(0);
  std::int64_t left = b.steps;
  if constexpr (How::kFirst) {
    steps<How, Unroll, true>(sum, p, weights);
    left -= Unroll;
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[m][v] = _mm256_setzero_si256();
  }
  for (std::int64_t s = 0;;) {
    for (; left > 0; left -= Unroll) steps<How, Unroll, false>(sum, p, weights);
    if (Unroll > 1 || ++s == b.count) break;
    go_to(s);
    left = b.steps;
  }
  auto *to = reinterpret_cast<__m256i *>(sums);
  if (set) {
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) _mm256_store_si256(to + m * Vectors + v, How::total(sum[m][v]));
  } else {
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        __m256i *each = to + m * Vectors + v;
        _mm256_store_si256(each, _mm256_add_epi32(_mm256_load_si256(each), How::total(sum[m][v])));
      }
  }
}

// A burst over all pixels of a tile.
template <class How, int Unroll, int Blocks>
__attribute__((noinline)) void micro_burst(const Burst &b, const std::uint8_t *const *pixels, int count, bool set, std::int32_t *sums) {
  constexpr int kVectors = 2 * Blocks, kPixels = How::template kPixels<kVectors>;
  int m = 0;
  for (; m + kPixels <= count; m += kPixels) burst_sums<How, Unroll, kVectors, kPixels>(b, pixels + m, set, sums + m * Blocks * kLanes);
  for (; m < count; ++m) burst_sums<How, Unroll, kVectors, 1>(b, pixels + m, set, sums + m * Blocks * kLanes);
}

// A plane of a tile: `burst` steps at a time over all pixels. Short segments are taken several at once.
template <class How, int Blocks>
inline void plane_sums(const MicroArgs &a, const std::uint8_t *const *pixels, int count, std::int64_t burst,
                                           const std::int8_t *weights, bool set, std::int32_t *sums) {
  const std::int64_t together = 2 * a.steps <= burst ? burst / a.steps : 1;
  for (std::int64_t s = 0; s < a.count; s += together) {
    Burst b{a.segments + s, together < a.count - s ? together : a.count - s, 0, 0, weights};
    for (std::int64_t done = 0; done < a.steps; done += b.steps) {
      b.at = done * kStep;
      b.steps = a.steps - done < burst ? a.steps - done : burst;
      if constexpr (How::kUnroll == 1) micro_burst<How, 1, Blocks>(b, pixels, count, set, sums);
      else if (b.count > 1 || b.steps % 2 != 0) micro_burst<How, 1, Blocks>(b, pixels, count, set, sums);
      else if (b.steps % 8 == 0) micro_burst<How, 8, Blocks>(b, pixels, count, set, sums);
      else if (b.steps % 4 == 0) micro_burst<How, 4, Blocks>(b, pixels, count, set, sums);
      else micro_burst<How, 2, Blocks>(b, pixels, count, set, sums);
      set = false;
      b.weights += b.count * b.steps * 64 * Blocks;
    }
    weights = b.weights;
  }
}

#if defined(BITSHIFT_DPBUSD)
inline void fit_bursts(MicroArgs &, int, int) {}
#else
// Whether int16 holds the sums of all windows of `steps` steps of some segments, from bytes of at most `byte`: the positive levels
// of a pair's sum give its maximum, the negative ones its minimum.
template <int Blocks>
inline bool windows_fit(const std::int8_t *levels, std::int64_t segments, std::int64_t segment_steps, std::int64_t steps, int byte) {
  constexpr int kVectors = 2 * Blocks;
  const __m256i one = _mm256_set1_epi8(1), zero = _mm256_setzero_si256(), most = _mm256_set1_epi16(static_cast<std::int16_t>(32767 / byte));
  for (std::int64_t s = 0; s < segments; ++s) {
    for (std::int64_t done = 0, n; done < segment_steps; done += n, levels += n * 32 * kVectors) {
      n = segment_steps - done < steps ? segment_steps - done : steps;
      __m256i over = zero;
      for (int v = 0; v < kVectors; ++v) {
        const auto *w = reinterpret_cast<const __m256i *>(levels) + v;
        __m256i all = zero, up = zero;
        for (std::int64_t k = 0; k < n; ++k, w += kVectors) {
          const __m256i x = _mm256_load_si256(w);
          all = _mm256_add_epi16(all, _mm256_maddubs_epi16(one, x));
          up = _mm256_add_epi16(up, _mm256_maddubs_epi16(one, _mm256_max_epi8(x, zero)));
        }
        const __m256i farther = _mm256_max_epi16(up, _mm256_sub_epi16(up, all));
        over = _mm256_or_si256(over, _mm256_cmpgt_epi16(farther, most));
      }
      if (!_mm256_testz_si256(over, over)) return false;
    }
  }
  return true;
}

// Longer bursts, up to 8 times what the largest level allows, where the levels of the panel as they are leave room.
inline void fit_bursts(MicroArgs &a, int blocks, int byte) {
  const std::int8_t *plane_levels = a.panel;
  for (int p = 0; p < a.planes; ++p, plane_levels += a.count * a.steps * blocks * 64) {
    int &burst = a.burst[p];
    const int sure = burst;
    burst = sure >= 8 ? sure / 8 * 8 : sure >= 4 ? 4 : sure;  // what micro_burst has loops for
    for (int tried = 32; tried > sure; tried /= 2) {
      if (tried > 8 * sure || 2 * a.steps <= tried) continue;
      bool fits = true;
      const std::int8_t *levels = plane_levels;
      for (std::int64_t r = 0; r < a.repeats && fits; ++r, levels += a.count * a.steps * blocks * 64 + a.skip)
        fits = blocks == 1 ? windows_fit<1>(levels, a.count, a.steps, tried, byte) : windows_fit<2>(levels, a.count, a.steps, tried, byte);
      if (fits) {
        burst = tried;
        break;
      }
    }
  }
}
#endif

template <int Blocks>
inline void tile_sums(const MicroArgs &a, int run, int groups) {
  const int count = run * groups;
  const std::int8_t *weights = a.panel;
  std::int32_t *sums = a.sums;
  const std::uint8_t *pixels[2 * kRun];
  for (int g = 0; g < groups; ++g)
    for (int m = 0; m < run; ++m) pixels[g * run + m] = a.pixels[g] + m * a.stride;
  for (std::int64_t r = 0; r < a.repeats; ++r, weights += a.skip, sums += count * Blocks * kLanes) {
    for (int plane = 0; plane < a.planes; ++plane, weights += a.count * a.steps * Blocks * 64) {
      if (plane > 0) {
        const __m128i shift = _mm_cvtsi32_si128(a.shift[plane - 1]);
        for (int i = 0; i < count * Blocks * kLanes; i += 8) {
          auto *each = reinterpret_cast<__m256i *>(sums + i);
          _mm256_store_si256(each, _mm256_sll_epi32(_mm256_load_si256(each), shift));
        }
      }
#if !defined(BITSHIFT_DPBUSD)
      if (a.burst[plane] > 1) {
        plane_sums<Pairs, Blocks>(a, pixels, count, a.burst[plane], weights, plane == 0, sums);
        continue;
      }
#endif
      plane_sums<Quads, Blocks>(a, pixels, count, Quads::kBurst, weights, plane == 0, sums);
    }
    for (int m = 0; m < count; ++m) pixels[m] += a.advance;
  }
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "micro_table.inc.h"

#endif
