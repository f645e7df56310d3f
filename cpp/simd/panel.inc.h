// Panels: decoded levels of a few blocks of outputs, laid out as micro.h says. Included behind micro_<isa>.h by the drivers that
// use its micro-kernels.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

// `blocks` blocks from `packed` on; writes up to 7 steps behind the panel.
inline void decode_panel(const Weights &w, const std::uint8_t *packed, int blocks, std::int8_t *panel) {
  for (int p = 0; p < w.planes; ++p, panel += w.steps * blocks * 64) {
    const LevelDecoder decode(w, p);
    for (int b = 0; b < blocks; ++b) decode(packed + static_cast<std::size_t>(b) * w.block_bytes(), w.supers, panel + b * 64, blocks * 64);
  }
}

// Zeroes what lies behind the segments' ends: codes there are 0, which is a level like any other.
inline void clear_padding(const Weights &w, int blocks, std::int8_t *panel) {
  const std::int64_t tail = w.segment % kStep;
  if (tail == 0) return;
  for (std::int64_t s = 1; s <= w.planes * w.segments; ++s) {
    std::int8_t *step = panel + (s * w.segment_steps - 1) * blocks * 64;
    for (std::int64_t i = 0; i < blocks * 64; i += kStep)
      for (std::int64_t j = tail; j < kStep; ++j) step[i + j] = 0;
  }
}

inline std::int64_t panel_bytes(const Weights &w) { return (w.planes * w.steps + 8) * kBlocks * 64; }

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
