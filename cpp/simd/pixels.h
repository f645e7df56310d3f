// Everything on 8-bit maps that has no packed weights, and the ways between maps and planar (channels-first) values.
#ifndef BITSHIFT_SIMD_PIXELS_H
#define BITSHIFT_SIMD_PIXELS_H

#include "common.h"

namespace bitshift::simd {

// All work on task.samples maps; threads share (sample, row) pieces. Kernels write pixels only; `border` fills borders.
struct PixelKernels {
  // Bytes of map.zero into the border of each sample's map at task.out.
  void (*border)(const Map &out, const Task &task);
  // Planar values of `type` (task.in) to a map, and back (task.in is a map). Signed bytes become q + 128. Map items of 2
  // and 4 bytes are int16 and int32.
  void (*from_planar)(bsk_dtype type, const Map &out, const Task &task);
  void (*to_planar)(bsk_dtype type, const Map &in, const Task &task);
  // Planar float32 to a map of bytes: clamp(floor(x * factor + half)) + zero in double; NaN gives 0 (as bsk_quantize).
  void (*quantize)(double factor, double half, std::int32_t lo, std::int32_t hi, const Map &out, const Task &task);
  // Windows as in portable.h; padding never wins. in and out have one zero.
  void (*max_pool)(const bsk_pool &p, const Map &in, const Map &out, const Task &task);
  // out byte = clamp((sum q * mult + offset) >> shift, lo, hi) + out.zero; zeros of the padding count.
  void (*avg_pool)(const bsk_pool &p, std::int32_t mult, std::int64_t offset, int shift, std::int32_t lo, std::int32_t hi,
                   const Map &in, const Map &out, const Task &task);
  // bsk_add on stored integers; b (task.residual) may be null; a, b, out: bytes or int16 or int32 maps.
  void (*add)(const bsk_add &p, const Map &a, const Map &b, const Map &out, const Task &task);
  // out byte = table[in byte], 256 entries over stored bytes: clamp, table, requantize and rescale with one factor.
  void (*table)(const std::uint8_t *table, const Map &in, const Map &out, const Task &task);
  // Channels of `in` to channels [first, first + in.channels) of out, byte by byte through a table or NULL (concat).
  void (*channels)(const std::uint8_t *table, const Map &in, std::int64_t first, const Map &out, const Task &task);
};

}  // namespace bitshift::simd
#endif
