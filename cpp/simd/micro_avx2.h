// Panels and micro-kernels with 16 registers of 256 bits: AVX2 (vpmaddubsw) and, where BITSHIFT_DPBUSD names the intrinsic, the
// 256-bit vpdpbusd of AVX-VNNI or AVX-512 VL.
//
// vpmaddubsw adds two products of a byte and a signed byte to an int16, saturating. With levels up to 8 and bytes up to 255, 8
// of its results (16 products of at most 2040) add up to 32640 at most: so results are added as int16, and only every
// MicroArgs::burst[plane] steps vpmaddwd widens the pair sums and adds them to int32 sums in memory. That is 2 instructions for
// 32 products and a few behind every burst, where the usual chain (vpmaddubsw, vpmaddwd, vpaddd) takes 3, of which only two a
// cycle can be multiplications. At a burst of 1 the usual chain is the better one.
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
// `Vectors` registers of outputs wide.
#if defined(BITSHIFT_DPBUSD)
constexpr int kLimit = 127;

struct Quads {
  template <int Vectors>
  static constexpr int kPixels = 12 / Vectors;  // 12 sums: 2 a cycle, each 4 to 5 cycles
  static constexpr std::int64_t kBurst = 64;    // steps whose weights stay in L1 beside everything else
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
  BITSHIFT_INLINE static __m256i first(__m256i bytes, __m256i weights) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, weights), _mm256_set1_epi16(1));
  }
  BITSHIFT_INLINE static __m256i add(__m256i sum, __m256i bytes, __m256i weights) { return _mm256_add_epi32(sum, first(bytes, weights)); }
  BITSHIFT_INLINE static __m256i total(__m256i sum) { return sum; }
};

struct Pairs {
  template <int Vectors>
  static constexpr int kPixels = 8 / Vectors;
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

// One step of a register tile; pixels and weights go on.
template <class How, bool First, int Pixels, int Vectors>
BITSHIFT_INLINE void step(__m256i (&sum)[Pixels][Vectors], const std::uint8_t *(&p)[Pixels], const std::int8_t *&weights) {
  const auto weights_of = [&](int v) __attribute__((always_inline)) {
    __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i *>(weights) + v);
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
    for (int m = 0; m < Pixels; ++m) bytes[m] = four_inputs(p[m]);
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
      const __m256i bytes = four_inputs(p[m]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) take(m, v, bytes, w[v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < Pixels; ++m) {
    p[m] += kStep;
    asm("" : "+r"(p[m]));
  }
  weights += 32 * Vectors;
}

// The steps of one burst: `steps` from byte `at` on of each of `count` segments.
struct Burst {
  const std::int64_t *segments;
  std::int64_t count, at, steps;
  const std::int8_t *weights;
};

// Adds a burst to the sums of some pixels, or sets them.
template <class How, int Vectors, int Pixels>
BITSHIFT_INLINE void burst_sums(const Burst &b, const std::uint8_t *const *pixels, bool set, std::int32_t *sums) {
  __m256i sum[Pixels][Vectors];
  const std::uint8_t *p[Pixels];
  const std::int8_t *weights = b.weights;
  const auto go_to = [&](std::int64_t s) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < Pixels; ++m) p[m] = pixels[m] + b.segments[s] + b.at;
  };
  go_to(0);
  step<How, true>(sum, p, weights);
  std::int64_t left = b.steps - 1;
  for (std::int64_t s = 0;;) {
    if (left == 0) {
      if (++s == b.count) break;
      go_to(s);
      left = b.steps;
    }
    do step<How, false>(sum, p, weights);
    while (--left > 0);
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

// A plane of a tile: `burst` steps at a time over all pixels. Short segments are taken several at once.
template <class How, int Blocks>
__attribute__((noinline)) void micro_plane(const MicroArgs &a, const std::uint8_t *const *pixels, int count, std::int64_t burst,
                                           const std::int8_t *weights, bool set, std::int32_t *sums) {
  constexpr int kVectors = 2 * Blocks, kPixels = How::template kPixels<kVectors>;
  const std::int64_t together = 2 * a.steps <= burst ? burst / a.steps : 1;
  for (std::int64_t s = 0; s < a.count; s += together) {
    Burst b{a.segments + s, together < a.count - s ? together : a.count - s, 0, 0, weights};
    for (std::int64_t done = 0; done < a.steps; done += b.steps) {
      b.at = done * kStep;
      b.steps = a.steps - done < burst ? a.steps - done : burst;
      int m = 0;
      for (; m + kPixels <= count; m += kPixels) burst_sums<How, kVectors, kPixels>(b, pixels + m, set, sums + m * Blocks * kLanes);
      for (; m < count; ++m) burst_sums<How, kVectors, 1>(b, pixels + m, set, sums + m * Blocks * kLanes);
      set = false;
      b.weights += b.count * b.steps * 64 * Blocks;
    }
    weights = b.weights;
  }
}

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
        micro_plane<Pairs, Blocks>(a, pixels, count, a.burst[plane], weights, plane == 0, sums);
        continue;
      }
#endif
      micro_plane<Quads, Blocks>(a, pixels, count, Quads::kBurst, weights, plane == 0, sums);
    }
    for (int m = 0; m < count; ++m) pixels[m] += a.advance;
  }
}

template <int Run, int Groups, int Blocks>
void micro_tile(const MicroArgs &a) {
  tile_sums<Blocks>(a, Run, Groups);
}

template <int Groups, int Blocks>
constexpr MicroKernel kMicro[kRun] = {micro_tile<1, Groups, Blocks>, micro_tile<2, Groups, Blocks>, micro_tile<3, Groups, Blocks>,
                                      micro_tile<4, Groups, Blocks>, micro_tile<5, Groups, Blocks>, micro_tile<6, Groups, Blocks>,
                                      micro_tile<7, Groups, Blocks>};

inline MicroKernel micro_kernel(int run, int groups, int blocks) {
  if (blocks == 1) return groups == 1 ? kMicro<1, 1>[run - 1] : kMicro<2, 1>[run - 1];
  return groups == 1 ? kMicro<1, 2>[run - 1] : kMicro<2, 2>[run - 1];
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
