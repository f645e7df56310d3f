// What the fast kernels share: how an 8-bit map lies in memory, weights in kernel layout, rule 4 as vectors.
//
// The kernels here are exact: they give the integers of kernels/portable.h bit for bit. All sums are int32 modulo 2^32
// (wrapping, never saturating), and the caller has proved that the true sum fits, so intermediate wraps do no harm.
#ifndef BITSHIFT_SIMD_COMMON_H
#define BITSHIFT_SIMD_COMMON_H

#include <cstddef>
#include <cstdint>

#include "../kernels/portable.h"
#include "bitshift/formats.h"

// Methods of shared types are compiled into files of every instruction set: a copy that is not inlined could be linked into all.
#if defined(__GNUC__)
#define BITSHIFT_INLINE __attribute__((always_inline)) inline
#else
#define BITSHIFT_INLINE inline
#endif

namespace bitshift::simd {

constexpr int kLanes = 16;   // outputs of a block
constexpr int kStep = 4;     // consecutive inputs that one dot-product lane adds
constexpr int kSuper = 512;  // weights of a superblock: 16 outputs x 32 inputs = 8 steps, 64 * bits bytes
constexpr int kMaxPlanes = 3;

// A feature map of one sample, channels last, with a border on both spatial axes (1-d: height 1, border_h 0).
// item 1: bytes that are unsigned: an integer q is stored as q + zero, zero = 0 (unsigned types) or 128 (signed types); the
// border holds `zero`, the byte of q = 0. item 2, 4: int16, int32 as they are, no border.
struct Map {
  std::int64_t height = 1, width = 1, channels = 1;
  std::int64_t border_h = 0, border_w = 0;
  int item = 1;
  std::uint8_t zero = 0;

  BITSHIFT_INLINE std::int64_t row() const { return (width + 2 * border_w) * channels * item; }  // bytes from a row to the next
  BITSHIFT_INLINE std::int64_t origin() const { return border_h * row() + border_w * channels * item; }  // bytes from the buffer to pixel (0, 0)
  // Two rows and 64 bytes behind the map may be read (never used), by segment tails, vector loads and Winograd tiles.
  BITSHIFT_INLINE std::int64_t bytes() const { return (height + 2 * border_h) * row() + slack(); }
  BITSHIFT_INLINE std::int64_t slack() const { return 2 * row() + 64; }
};

// Weights in kernel layout. The inputs of an output are cut into segments of equal length, each padded to whole steps;
// a group's blocks of 16 outputs follow each other, a block is `supers` superblocks. pack.h writes them.
//  - "rows" (groups == 1 and dilation_w == 1): kernel_h segments of kernel_w * in_c bytes;
//  - else: kernel_h * kernel_w segments of in_c / groups bytes; a linear layer is one segment.
//  - depthwise (groups == in_c > 1): groups is 1, segment = kernel_h * kernel_w taps, and a block is no superblocks but, for each
//    tap in order, `bits` little-endian 16-bit words: bit `lane` of word b is bit b of the code of output lane.
// Lanes that no input or output owns hold code 0 and must be masked (inputs) or not stored (outputs).
struct Weights {
  const std::uint8_t *packed = nullptr;
  const bitshift_format *format = nullptr;
  std::int64_t groups = 1, outputs = 0;         // outputs of a group
  std::int64_t blocks = 0;                      // of a group: ceil(outputs / 16)
  std::int64_t segments = 1, segment = 0;       // count, and length in bytes before padding
  std::int64_t segment_steps = 0, steps = 0;    // ceil(segment / 4); segments * segment_steps
  std::int64_t supers = 0;                      // ceil(steps / 8)
  bool depthwise = false;
  // A level is sum_p table[p][code] << (shift of plane p); planes are stored from the highest to the lowest, so that
  // acc = ((plane 0) << shift[0] | + plane 1) << shift[1] ... : shift[p] is applied to the sum behind plane p, shift of the last is 0.
  // Every table entry is at most `limit` in magnitude: 127 (dot-product instructions) or 64 (pmaddubsw pairs in int16).
  int planes = 1, limit = 127;
  std::int8_t table[kMaxPlanes][256] = {};
  int shift[kMaxPlanes] = {};

  BITSHIFT_INLINE std::size_t block_bytes() const { return static_cast<std::size_t>(supers) * 64u * static_cast<std::size_t>(format->bits); }
  BITSHIFT_INLINE std::size_t bytes() const { return static_cast<std::size_t>(groups * blocks) * block_bytes(); }
};

// Rule 4: out = clamp(((acc - correction)*mult + offset + (residual << res_shift)) >> shift, lo, hi). One entry an output
// channel of the whole layer; every array has `channels` rounded up to a multiple of 64 entries (zeros behind).
// correction = zero of the input * sum of the channel's levels: kernels sum over stored bytes.
// narrow: |acc*mult| + |offset| + |residual << res_shift| < 2^31: use offset32, into which correction*mult and the zero of the
// residual are folded already (modulo 2^32). Else: subtract correction in 32 bits, then everything in 64, offset64 has only the
// residual's zero folded in.
struct Requant {
  const std::int32_t *mult = nullptr, *offset32 = nullptr, *shift = nullptr, *res_shift = nullptr, *correction = nullptr;
  const std::int64_t *offset64 = nullptr;
  bool narrow = true, unit = true;      // unit: every mult is 1
  bool residual = false;
  int res_item = 1;                      // a residual's element: 1 unsigned byte (zero folded into the offset), -1 signed byte, 2 int16, 4 int32
  int out_item = 1;                      // 1: (v + out_zero) as a byte; 2, 4: v
  std::uint8_t out_zero = 0;
  std::int32_t lo = 0, hi = 0;           // of v, before out_zero
};

// What a thread does in one call: its share of the work of `samples` samples, and where they lie.
struct Task {
  const std::uint8_t *in = nullptr;        // buffer of sample 0 (not the origin)
  const std::uint8_t *residual = nullptr;  // or null
  std::uint8_t *out = nullptr;
  std::int64_t in_stride = 0, res_stride = 0, out_stride = 0;  // bytes from a sample to the next
  std::int64_t samples = 1;
  std::uint8_t *scratch = nullptr;         // 64-byte aligned; shared by all threads of the call
  int thread = 0, threads = 1;

  // This thread's part of `items` equal pieces, in order.
  BITSHIFT_INLINE void share(std::int64_t items, std::int64_t &begin, std::int64_t &end) const {
    begin = items * thread / threads;
    end = items * (thread + 1) / threads;
  }
};

}  // namespace bitshift::simd
#endif
