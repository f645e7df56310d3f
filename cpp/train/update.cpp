// A step of SGD on bfloat16 latents, rounded stochastically.
#include "vector.h"

namespace bitshift::train {
namespace {

// 32 well-mixed bits of a counter (the "lowbias32" permutation).
BSK_INLINE std::uint32_t mixed(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Up with the probability of the part that is cut off: `noise` is uniform in 0..65535.
BSK_INLINE Bf16 rounded(float v, std::uint32_t noise) {
  return {static_cast<std::uint16_t>(v == v ? (bits_of(v) + noise) >> 16 : 0x7FC0u)};
}

template <bool Momentum>
BSK_INLINE void update(const Bf16 *__restrict g, Bf16 *__restrict p, Bf16 *__restrict m, const Rate &rate, std::uint32_t key,
                       std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; i++) {
    const std::uint32_t noise = mixed((static_cast<std::uint32_t>(i) * 0x9E3779B1u) ^ key);
    const float latent = load(p + i);
    float step = load(g + i) + latent * rate.decay;
    if (Momentum) {
      const float moved = load(m + i) * rate.momentum + step;
      m[i] = rounded(moved, noise >> 16);
      step = rate.nesterov ? step + moved * rate.momentum : moved;
    }
    p[i] = rounded(latent - step * rate.lr, noise & 0xFFFFu);
  }
}

BSK_CLONES void with_momentum(const Bf16 *g, Bf16 *p, Bf16 *m, const Rate &rate, std::uint32_t key, std::size_t begin, std::size_t end) {
  update<true>(g, p, m, rate, key, begin, end);
}
BSK_CLONES void without(const Bf16 *g, Bf16 *p, const Rate &rate, std::uint32_t key, std::size_t begin, std::size_t end) {
  update<false>(g, p, nullptr, rate, key, begin, end);
}

}  // namespace

void rounded_sgd(const void *g, void *p, void *m, const Rate &rate, std::uint32_t key, std::size_t begin, std::size_t end) {
  const auto *grad = static_cast<const Bf16 *>(g);
  auto *latent = static_cast<Bf16 *>(p);
  if (m)
    with_momentum(grad, latent, static_cast<Bf16 *>(m), rate, key, begin, end);
  else
    without(grad, latent, rate, key, begin, end);
}

}  // namespace bitshift::train
