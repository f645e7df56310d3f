// The contract between the convolution drivers (conv.inc.h, winograd.inc.h) and the micro-kernels of an instruction set.
//
// An instruction set brings two headers, everything in its own namespace:
//  - vec_<isa>.h:   struct Vec, 16 int32 lanes and what the epilogue does with them (see vec_avx512.h for the list);
//  - micro_<isa>.h: constexpr int kRun, kBlocks, kLimit (largest Weights::limit);
//                   struct LevelDecoder {  // the levels of one plane
//                     LevelDecoder(const Weights &, int plane);
//                     // Step z of superblock s: 64 bytes, 16 lanes x 4 inputs, to `to + (8 s + z) * step_bytes`, 64-byte aligned.
//                     void operator()(const std::uint8_t *packed, std::int64_t supers, std::int8_t *to, std::int64_t step_bytes) const;
//                   };
//                   MicroKernel micro_kernel(int run, int groups, int blocks), run 1..kRun, groups 1..2, blocks 1..kBlocks;
//                   constexpr bool kFused; if true, QuickKernel quick_kernel(int run, int groups, int blocks), and
//                   can_decode_first, decode_first, LevelDecoder::each_step (see micro_avx512.h).
// A panel is `blocks` consecutive blocks of 16 outputs as signed bytes: [plane][step][block][16 lanes][4 inputs], with zeros for
// inputs behind a segment's end (the driver sees to it).
// Micro-kernels are noinline functions named *micro*: tools/check_spills.py looks at their machine code.
#ifndef BITSHIFT_SIMD_MICRO_H
#define BITSHIFT_SIMD_MICRO_H

#include "common.h"

namespace bitshift::simd {

// Sums of a tile: `groups` runs of `run` pixels, `blocks` blocks of 16 outputs.
struct MicroArgs {
  const std::uint8_t *pixels[2] = {};        // the first pixel of each run
  std::int64_t stride = 0;                   // bytes from a pixel of a run to the next
  const std::int64_t *segments = nullptr;    // offsets of the segments from a pixel
  std::int64_t count = 1, steps = 0;         // segments, steps of each
  const std::int8_t *panel = nullptr;        // in the order in which it is read: [repeat][plane][segment][step][block][64]
  int planes = 1;
  const int *shift = nullptr;                // Weights::shift; not read if planes is 1
  std::int64_t repeats = 1, advance = 0;     // tiles to do: pixels move by `advance` bytes, panel and sums go on,
  std::int64_t skip = 0;                     // the panel over a gap of `skip` bytes
  std::int32_t *sums = nullptr;              // [repeat][pixel][block][16]
  int burst[kMaxPlanes] = {1, 1, 1};         // of each plane: see steps_in_int16; only AVX2 looks at it
};

// Steps that a signed 16-bit lane can add up: each adds two products of a byte and a level of at most these magnitudes.
BITSHIFT_INLINE int steps_in_int16(int byte, int level) {
  const int most = 2 * byte * level;
  return most > 0 ? 32767 / most : 32767;
}

// For the planes of a layer, whose inputs are stored as bytes of at most `byte`.
BITSHIFT_INLINE void set_bursts(MicroArgs &a, const Weights &w, int byte) {
  for (int p = 0; p < w.planes; ++p) {
    int level = 0;
    for (int code = 0; code < 1 << w.format->bits; ++code) {
      const int v = w.table[p][code] < 0 ? -w.table[p][code] : w.table[p][code];
      level = v > level ? v : level;
    }
    a.burst[p] = steps_in_int16(byte, level);
  }
}

// For instruction sets that do not add in int16. AVX2 has a function of this name that sets a.burst by the levels of a.panel.
template <class Args>
BITSHIFT_INLINE void fit_bursts(Args &, int /*blocks*/, int /*byte*/) {}

using MicroKernel = void (*)(const MicroArgs &);

// A tile from inputs to bytes of the map, for layers that requant.inc.h calls quick: `sums` and `repeats` are not used. Only where
// accumulators can stay in registers through rule 4: an instruction set without such kernels says so by kFused = false and has
// no quick_kernel.
struct QuickArgs {
  MicroArgs m;
  const std::int32_t *mult = nullptr, *offset = nullptr, *shift = nullptr, *res_shift = nullptr;  // of the panel's lanes, aligned
  const void *clamp = nullptr;        // Vec::Clamp
  bool unit = true;
  std::uint8_t *out[2] = {};          // the first pixel of each run
  const std::uint8_t *res[2] = {};    // or null
  std::int64_t out_stride = 0, res_stride = 0;
  int count = 0;                      // outputs of the panel
};

using QuickKernel = void (*)(const QuickArgs &);

}  // namespace bitshift::simd
#endif
