// Panels and micro-kernels in AVX-512 VNNI.
//
// A tile of 14 pixels x 32 outputs is 28 accumulators, 2 vectors of weights and 2 of broadcast pixels: all 32 registers. A step
// takes 28 vpdpbusd, one a cycle, and 16 loads, of which the processor does one or two a cycle; so smaller tiles run at the full
// rate too, down to about 8 accumulators (the latency is 4 to 5 cycles). That is why any number of pixels has its own kernel.
#ifndef BITSHIFT_SIMD_MICRO_AVX512_H
#define BITSHIFT_SIMD_MICRO_AVX512_H

#include <immintrin.h>

#include <cstring>

#include "decode_avx512.h"
#include "each.h"
#include "micro.h"
#include "vec_avx512.h"

namespace bitshift::simd::avx512 {

constexpr int kRun = 7, kBlocks = 2, kLimit = 127;
constexpr bool kFused = true;

class LevelDecoder {
 public:
  LevelDecoder(const Weights &w, int plane) : bits_(w.format->bits) {
    with_width(bits_, [&](auto bits) { keep<decltype(bits)::value>(w.table[plane]); });
  }

  void operator()(const std::uint8_t *packed, std::int64_t supers, std::int8_t *to, std::int64_t step_bytes) const {
    with_width(bits_, [&](auto bits) { decode<decltype(bits)::value>(packed, supers, to, step_bytes); });
  }

  const __m512i *tables() const { return tables_; }

  // Calls f(step), step(packed superblock, z) being the 64 levels of step z, for z that the compiler knows. False: not for this width.
  template <class F>
  bool each_step(F &&f) const {
    switch (bits_) {
      case 1: f(Step<1>{LevelTable<1>(tables_)}); return true;
      case 2: f(Step<2>{LevelTable<2>(tables_)}); return true;
      case 3: f(Step<3>{LevelTable<3>(tables_)}); return true;
      case 4: f(Step<4>{LevelTable<4>(tables_)}); return true;
      default: return false;
    }
  }

 private:
  template <int Bits>
  struct Step {
    typedef std::uint8_t V __attribute__((vector_size(64)));
    LevelTable<Bits> levels;
    __attribute__((always_inline)) V operator()(const std::uint8_t *packed, int z) const {
      __m512i index[8];
      code_indices<Bits>(packed, index);
      return reinterpret_cast<V>(levels.look_up(index[z], z));
    }
  };

  __m512i tables_[6];
  int bits_;

  template <int Bits>
  void keep(const std::int8_t *levels) {
    const LevelTable<Bits> made(levels);
    for (int i = 0; i < CodePlaces<Bits>::kTables; ++i) tables_[i] = made.table[i];
  }

  template <int Bits>
  void decode(const std::uint8_t *packed, std::int64_t supers, std::int8_t *to, std::int64_t step_bytes) const {
    const LevelTable<Bits> levels(tables_);
    for (std::int64_t s = 0; s < supers; ++s, packed += 64 * Bits) {
      __m512i index[8];
      code_indices<Bits>(packed, index);
#pragma GCC unroll 8
      for (int z = 0; z < 8; ++z, to += step_bytes) _mm512_store_si512(to, levels.look_up(index[z], z));
    }
  }
};

// Four inputs of pixel m in all lanes. 1, 3 and 5 strides in registers and the scales 1, 2, 4 of an address reach 7 pixels.
template <int M>
inline __m512i pixel(const std::uint8_t *p, std::int64_t s1, std::int64_t s3, std::int64_t s5) {
  static_assert(M < 7);
  const std::int64_t at = M == 3 ? s3 : M == 5 ? s5 : M == 6 ? 2 * s3 : M * s1;
  std::int32_t four;
  std::memcpy(&four, p + at, sizeof four);
  return _mm512_set1_epi32(four);
}

template <int M, int Run, int Blocks>
inline __attribute__((always_inline)) void step_run(__m512i (&acc)[Run][Blocks], const __m512i (&w)[Blocks], const std::uint8_t *p,
                                                    std::int64_t s1, std::int64_t s3, std::int64_t s5) {
  if constexpr (M < Run) {
    const __m512i x = pixel<M>(p, s1, s3, s5);
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) acc[M][b] = _mm512_dpbusd_epi32(acc[M][b], x, w[b]);
    step_run<M + 1>(acc, w, p, s1, s3, s5);
  }
}

// A panel's first tile, one run of pixels x 2 blocks, decodes the panel while it multiplies: look-ups and stores of the decoded
// bytes run beside the dot products, which leave their units idle. Sums as micro_sums gives them. Segments of whole superblocks only.
template <int Bits, int Run>
__attribute__((noinline)) void micro_decoding(const MicroArgs &a, const std::uint8_t *packed, std::size_t block_bytes,
                                              const __m512i *tables, std::int8_t *panel) {
  const LevelTable<Bits> levels(tables);
  std::int64_t s1 = a.stride, s3 = 3 * s1, s5 = 5 * s1;
  __m512i acc[Run][2];
#pragma GCC unroll 7
  for (int m = 0; m < Run; ++m) acc[m][0] = acc[m][1] = _mm512_setzero_si512();
  for (std::int64_t s = 0; s < a.count; ++s) {
    const std::uint8_t *p = a.pixels[0] + a.segments[s];
    for (std::int64_t step = a.steps; step > 0; step -= 8, packed += 64 * Bits) {
#pragma GCC unroll 8
      for (int z = 0; z < 8; ++z, p += kStep, panel += 128) {
        asm("" : "+r"(s1), "+r"(s3), "+r"(s5), "+r"(packed));  // packed: nor are rows of codes worth a register
        __m512i w[2];
#pragma GCC unroll 2
        for (int b = 0; b < 2; ++b) {
          __m512i index[8];
          code_indices<Bits>(packed + (b == 0 ? 0 : block_bytes), index);
          w[b] = levels.look_up(index[z], z);
          _mm512_store_si512(panel + 64 * b, w[b]);
        }
        step_run<0>(acc, w, p, s1, s3, s5);
      }
    }
  }
#pragma GCC unroll 7
  for (int m = 0; m < Run; ++m) {
    _mm512_store_si512(a.sums + 32 * m, acc[m][0]);
    _mm512_store_si512(a.sums + 32 * m + 16, acc[m][1]);
  }
}

template <int Bits>
inline void micro_decoding_run(int run, const MicroArgs &a, const std::uint8_t *packed, std::size_t block_bytes, const __m512i *tables,
                               std::int8_t *panel) {
  using Kernel = void (*)(const MicroArgs &, const std::uint8_t *, std::size_t, const __m512i *, std::int8_t *);
  static constexpr Kernel kernels[kRun] = {micro_decoding<Bits, 1>, micro_decoding<Bits, 2>, micro_decoding<Bits, 3>, micro_decoding<Bits, 4>,
                                           micro_decoding<Bits, 5>, micro_decoding<Bits, 6>, micro_decoding<Bits, 7>};
  kernels[run - 1](a, packed, block_bytes, tables, panel);
}

inline bool can_decode_first(const Weights &w, int blocks) {
  return w.planes == 1 && w.format->bits <= 4 && blocks == 2 && w.segment % 32 == 0;
}

// The first run of a.pixels, and the panel.
inline void decode_first(const Weights &w, const std::uint8_t *packed, int run, const MicroArgs &a, std::int8_t *panel) {
  const LevelDecoder decode(w, 0);
  switch (w.format->bits) {
    case 1: return micro_decoding_run<1>(run, a, packed, w.block_bytes(), decode.tables(), panel);
    case 2: return micro_decoding_run<2>(run, a, packed, w.block_bytes(), decode.tables(), panel);
    case 3: return micro_decoding_run<3>(run, a, packed, w.block_bytes(), decode.tables(), panel);
    default: return micro_decoding_run<4>(run, a, packed, w.block_bytes(), decode.tables(), panel);
  }
}

#define BITSHIFT_EACH_SUM(Groups, Run, Blocks)                          \
  _Pragma("GCC unroll 2") for (int g = 0; g < (Groups); ++g)            \
    _Pragma("GCC unroll 7") for (int m = 0; m < (Run); ++m)             \
      _Pragma("GCC unroll 2") for (int b = 0; b < (Blocks); ++b)

// The sums of a tile, in registers. Returns where the panel ends.
template <int Run, int Groups, int Blocks>
inline __attribute__((always_inline)) const std::int8_t *accumulate(const MicroArgs &a, const std::uint8_t *base0,
                                                                    const std::uint8_t *base1, const std::int8_t *weights,
                                                                    __m512i (&acc)[Groups][Run][Blocks]) {
  std::int64_t s1 = a.stride, s3 = 3 * s1, s5 = 5 * s1;
  BITSHIFT_EACH_SUM(Groups, Run, Blocks) acc[g][m][b] = _mm512_setzero_si512();
  for (int plane = 0;;) {
    for (std::int64_t s = 0; s < a.count; ++s) {
      const std::uint8_t *p0 = base0 + a.segments[s], *p1 = base1 + a.segments[s];
      for (std::int64_t step = a.steps; step > 0; --step, p0 += kStep, p1 += kStep, weights += Blocks * 64) {
        asm("" : "+r"(s1), "+r"(s3), "+r"(s5));  // the strides stay in registers: gcc would make a pointer of each pixel
        __m512i w[Blocks];
#pragma GCC unroll 2
        for (int b = 0; b < Blocks; ++b) w[b] = _mm512_load_si512(weights + 64 * b);
        step_run<0>(acc[0], w, p0, s1, s3, s5);
        if constexpr (Groups == 2) step_run<0>(acc[1], w, p1, s1, s3, s5);
      }
    }
    if (plane == a.planes - 1) return weights;
    const __m128i shift = _mm_cvtsi32_si128(a.shift[plane++]);
    BITSHIFT_EACH_SUM(Groups, Run, Blocks) acc[g][m][b] = _mm512_sll_epi32(acc[g][m][b], shift);
  }
}

template <int Run, int Groups, int Blocks>
__attribute__((noinline)) void micro_sums(const MicroArgs &a) {
  const std::int8_t *weights = a.panel;
  std::int32_t *sums = a.sums;
  const std::uint8_t *base0 = a.pixels[0], *base1 = a.pixels[1];
  for (std::int64_t r = 0; r < a.repeats; ++r, base0 += a.advance, base1 += a.advance, weights += a.skip) {
    __m512i acc[Groups][Run][Blocks];
    weights = accumulate(a, base0, base1, weights, acc);
    BITSHIFT_EACH_SUM(Groups, Run, Blocks) {
      _mm512_store_si512(sums, acc[g][m][b]);
      sums += kLanes;
    }
  }
}

// Four sums, of pixels First / Blocks and on, to bytes. Vectors of the panel come from memory at each use: no register is free for them.
template <int First, int Run, int Groups, int Blocks>
inline __attribute__((always_inline)) void finish_four(const QuickArgs &q, __m512i (&acc)[Groups][Run][Blocks]) {
  constexpr int kAll = Groups * Run * Blocks;
  if constexpr (First < kAll) {
    asm volatile("" ::: "memory");
    __m512i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      constexpr int kLast = kAll - 1;
      const int at = First + i < kAll ? First + i : kLast, pixel = at / Blocks, group = pixel / Run, c = at % Blocks * kLanes;
      v[i] = acc[group][pixel % Run][at % Blocks];
      if (First + i >= kAll) continue;  // its bytes are not stored
      if (!q.unit) v[i] = _mm512_mullo_epi32(v[i], _mm512_load_si512(q.mult + c));
      v[i] = _mm512_add_epi32(v[i], _mm512_load_si512(q.offset + c));
      if (q.res[0]) {
        const __m512i r = Vec::load_u8(q.res[group] + pixel % Run * q.res_stride + c);
        v[i] = _mm512_add_epi32(v[i], _mm512_sllv_epi32(r, _mm512_load_si512(q.res_shift + c)));
      }
      v[i] = _mm512_srav_epi32(v[i], _mm512_load_si512(q.shift + c));
    }
    const Vec::Bytes bytes = Vec::pack(v[0], v[1], v[2], v[3], *static_cast<const Vec::Clamp *>(q.clamp));
#pragma GCC unroll 4
    for (int i = 0; i < 4 / Blocks; ++i) {
      const int pixel = First / Blocks + i;
      if (pixel >= Groups * Run) break;
      std::uint8_t *out = q.out[pixel / Run] + pixel % Run * q.out_stride;
      if constexpr (Blocks == 2) Vec::store_half(out, bytes, i, q.count);
      else Vec::store_quarter(out, bytes, i, q.count);
    }
    finish_four<First + 4>(q, acc);
  }
}

template <int Run, int Groups, int Blocks>
__attribute__((noinline)) void micro_quick(const QuickArgs &q) {
  __m512i acc[Groups][Run][Blocks];
  accumulate(q.m, q.m.pixels[0], q.m.pixels[1], q.m.panel, acc);
  finish_four<0>(q, acc);
}

template <int Groups, int Blocks>
constexpr MicroKernel kMicro[kRun] = {micro_sums<1, Groups, Blocks>, micro_sums<2, Groups, Blocks>, micro_sums<3, Groups, Blocks>,
                                      micro_sums<4, Groups, Blocks>, micro_sums<5, Groups, Blocks>, micro_sums<6, Groups, Blocks>,
                                      micro_sums<7, Groups, Blocks>};

template <int Groups, int Blocks>
constexpr QuickKernel kQuick[kRun] = {micro_quick<1, Groups, Blocks>, micro_quick<2, Groups, Blocks>, micro_quick<3, Groups, Blocks>,
                                      micro_quick<4, Groups, Blocks>, micro_quick<5, Groups, Blocks>, micro_quick<6, Groups, Blocks>,
                                      micro_quick<7, Groups, Blocks>};

inline MicroKernel micro_kernel(int run, int groups, int blocks) {
  if (blocks == 1) return groups == 1 ? kMicro<1, 1>[run - 1] : kMicro<2, 1>[run - 1];
  return groups == 1 ? kMicro<1, 2>[run - 1] : kMicro<2, 2>[run - 1];
}

inline QuickKernel quick_kernel(int run, int groups, int blocks) {
  if (blocks == 1) return groups == 1 ? kQuick<1, 1>[run - 1] : kQuick<2, 1>[run - 1];
  return groups == 1 ? kQuick<1, 2>[run - 1] : kQuick<2, 2>[run - 1];
}

}  // namespace bitshift::simd::avx512
#endif
