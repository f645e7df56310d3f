// What the training kernels share: bfloat16 in memory, float in registers.
#ifndef BITSHIFT_TRAIN_VECTOR_H
#define BITSHIFT_TRAIN_VECTOR_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "../kernels/internal.h"

namespace bitshift::train {

struct Bf16 {
  std::uint16_t bits;
};

BSK_INLINE float load(const float *p) { return *p; }
BSK_INLINE float load(const Bf16 *p) {
  const std::uint32_t bits = static_cast<std::uint32_t>(p->bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

BSK_INLINE std::uint32_t bits_of(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

BSK_INLINE float float_of(std::uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

BSK_INLINE void store(float *p, float v) { *p = v; }
// To nearest, ties to even; a NaN becomes the quiet one, as in torch.
BSK_INLINE void store(Bf16 *p, float v) {
  const std::uint32_t bits = bits_of(v);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  p->bits = static_cast<std::uint16_t>(v == v ? rounded : 0x7FC0u);
}

}  // namespace bitshift::train
#endif
