// Rule 4 on vectors: from int32 sums of a panel to the elements of a map. Included by the kernels of every instruction set behind
// vec_<isa>.h, in namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE.
//
// "quick" is what nearly all layers take: 32-bit arithmetic, bytes out, no residual or a byte: four vectors at a time become 64
// bytes. Everything else (64-bit arithmetic, wide outputs, wide residuals) goes vector by vector.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kPanelLanes = kBlocks * kLanes;

// The entries of Requant that belong to a panel, aligned; lanes that no output owns hold zeros.
struct PanelRequant {
  alignas(64) std::int32_t mult[kPanelLanes], offset32[kPanelLanes], shift[kPanelLanes], res_shift[kPanelLanes], correction[kPanelLanes];
  alignas(64) std::int64_t offset64[kPanelLanes];
  const Requant *q = nullptr;
  std::int64_t channel = 0;  // of the layer, of lane 0
  int blocks = 0;  // of this panel
  int lanes = 0;   // outputs in its last block
  int burst[kMaxPlanes] = {1, 1, 1};  // MicroArgs::burst for its levels

  int count() const { return (blocks - 1) * kLanes + lanes; }  // outputs

  // first: the output channel of lane 0; outputs: how many of them there are.
  void load(const Requant &from, std::int64_t first, int outputs) {
    q = &from;
    channel = first;
    blocks = (outputs + kLanes - 1) / kLanes;
    lanes = outputs - (blocks - 1) * kLanes;
    const auto fill = [outputs](auto *to, const auto *all, std::int64_t c) {
      if (outputs == kPanelLanes) return static_cast<void>(__builtin_memcpy(to, all + c, sizeof *to * kPanelLanes));
      for (int i = 0; i < kPanelLanes; ++i) to[i] = i < outputs ? all[c + i] : 0;
    };
    fill(mult, from.mult, first);
    fill(shift, from.shift, first);
    if (from.residual) fill(res_shift, from.res_shift, first);
    else __builtin_memset(res_shift, 0, sizeof res_shift);
    if (from.narrow) return fill(offset32, from.offset32, first);
    fill(correction, from.correction, first);
    fill(offset64, from.offset64, first);
  }
};

inline bool quick(const Requant &q) { return q.narrow && q.out_item == 1 && (!q.residual || q.res_item == 1); }

// One vector in 32 bits, before the clamp.
template <bool Unit, bool Residual>
inline Vec::I requant_narrow(Vec::I v, const PanelRequant &p, int block, const std::uint8_t *res) {
  const int c = block * kLanes;
  if constexpr (!Unit) v = Vec::mul(v, Vec::load(p.mult + c));
  v = Vec::add(v, Vec::load(p.offset32 + c));
  if constexpr (Residual) v = Vec::add(v, Vec::shl(Vec::load_u8(res + c), Vec::load(p.res_shift + c)));
  return Vec::sar(v, Vec::load(p.shift + c));
}

// The same with a panel's vectors taken to registers once, for loops.
template <bool Unit, bool Residual, int Blocks>
struct NarrowVectors {
  Vec::I mult[Blocks], offset[Blocks], shift[Blocks], res_shift[Blocks];

  explicit NarrowVectors(const PanelRequant &p) {
    for (int b = 0; b < Blocks; ++b) {
      if constexpr (!Unit) mult[b] = Vec::load(p.mult + b * kLanes);
      offset[b] = Vec::pin(Vec::load(p.offset32 + b * kLanes));
      shift[b] = Vec::pin(Vec::load(p.shift + b * kLanes));
      if constexpr (Residual) res_shift[b] = Vec::pin(Vec::load(p.res_shift + b * kLanes));
    }
  }
  Vec::I operator()(Vec::I v, int block, const std::uint8_t *res) const {
    if constexpr (!Unit) v = Vec::mul(v, mult[block]);
    v = Vec::add(v, offset[block]);
    if constexpr (Residual) v = Vec::add(v, Vec::shl(Vec::load_u8(res + block * kLanes), res_shift[block]));
    return Vec::sar(v, shift[block]);
  }
};

// Any mode: a vector of sums to the map. out and res: the first channel of the panel at the pixel. Panel: PanelRequant, or a
// value with members of the same names.
template <class Panel>
inline void requant_any(Vec::I v, const Panel &p, int block, std::uint8_t *out, const std::uint8_t *res) {
  const Requant &q = *p.q;
  const int c = block * kLanes;
  Vec::I r = Vec::set(0);
  if (q.residual) {
    switch (q.res_item) {
      case 1: r = Vec::load_u8(res + c); break;
      case -1: r = Vec::load_i8(res + c); break;
      case 2: r = Vec::load_i16(res + 2 * c); break;
      default: r = Vec::load_i32(res + 4 * c);
    }
  }
  if (q.narrow) {
    v = Vec::add(Vec::mul(v, Vec::load(p.mult + c)), Vec::load(p.offset32 + c));
    v = Vec::sar(Vec::add(v, Vec::shl(r, Vec::load(p.res_shift + c))), Vec::load(p.shift + c));
    v = Vec::min(Vec::max(v, Vec::set(q.lo)), Vec::set(q.hi));
  } else {
    v = Vec::wide(Vec::sub(v, Vec::load(p.correction + c)), r, p.mult + c, p.offset64 + c, p.res_shift + c, p.shift + c, q.lo, q.hi);
  }
  const int lanes = block + 1 == p.blocks ? p.lanes : kLanes;
  if (q.out_item == 1) Vec::store_8(out + c, Vec::add(v, Vec::set(q.out_zero)), lanes);
  else if (q.out_item == 2) Vec::store_16(out + 2 * c, v, lanes);
  else Vec::store_32(out + 4 * c, v, lanes);
}

// A run of pixels in a map: where its first pixel's panel starts, and bytes to the next.
struct PixelRun {
  std::uint8_t *out = nullptr;
  const std::uint8_t *res = nullptr;
  int pixels = 0;
};

// Sums [pixel][Blocks][16] of a run to the map, the quick way.
template <bool Unit, bool Residual, int Blocks>
inline void finish_quick(const PanelRequant &p, const std::int32_t *sums, const PixelRun &run, std::int64_t out_stride,
                         std::int64_t res_stride) {
  constexpr int kAtOnce = 4 / Blocks;  // pixels
  const Vec::Clamp clamp = Vec::clamp_of(*p.q);
  const NarrowVectors<Unit, Residual, Blocks> narrow(p);
  const int count = p.count();
  std::uint8_t *out = run.out;
  const std::uint8_t *res = run.res;
  for (int left = run.pixels; left > 0; left -= kAtOnce, sums += 4 * kLanes) {
    Vec::I v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      // A pixel too many is computed from whatever lies in the buffer and not stored; its residual is that of the first.
      const std::uint8_t *r = Residual && i / Blocks < left ? res + i / Blocks * res_stride : res;
      v[i] = narrow(Vec::load(sums + i * kLanes), i % Blocks, r);
    }
    const Vec::Bytes bytes = Vec::pack(v[0], v[1], v[2], v[3], clamp);
#pragma GCC unroll 4
    for (int i = 0; i < kAtOnce; ++i) {
      if (i >= left) break;
      if constexpr (Blocks == 2) Vec::store_half(out + i * out_stride, bytes, i, count);
      else Vec::store_quarter(out + i * out_stride, bytes, i, count);
    }
    out += kAtOnce * out_stride;
    if constexpr (Residual) res += kAtOnce * res_stride;
  }
}

template <int Blocks>
inline void finish_any(const PanelRequant &p, const std::int32_t *sums, const PixelRun &run, std::int64_t out_stride,
                       std::int64_t res_stride) {
  for (int m = 0; m < run.pixels; ++m)
    for (int b = 0; b < Blocks; ++b, sums += kLanes)
      requant_any(Vec::load(sums), p, b, run.out + m * out_stride, run.res ? run.res + m * res_stride : nullptr);
}

using Finish = void (*)(const PanelRequant &, const std::int32_t *sums, const PixelRun &, std::int64_t out_stride, std::int64_t res_stride);

// sums must be readable for 3 vectors behind the run.
template <int Blocks>
inline Finish finish_of(const Requant &q) {
  if (!quick(q)) return finish_any<Blocks>;
  if (q.unit) return q.residual ? finish_quick<true, true, Blocks> : finish_quick<true, false, Blocks>;
  return q.residual ? finish_quick<false, true, Blocks> : finish_quick<false, false, Blocks>;
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
