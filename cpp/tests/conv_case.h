// A convolution layer on maps with everything it points to: drawn at random for the test, of a given shape for the benchmark.
#ifndef BITSHIFT_TESTS_CONV_CASE_H
#define BITSHIFT_TESTS_CONV_CASE_H

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../simd/conv.h"
#include "../simd/pack.h"

namespace bitshift::simd::testing {

using Rng = std::mt19937_64;

inline std::int64_t draw(Rng &rng, std::int64_t lo, std::int64_t hi) {
  return lo + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(hi - lo + 1));
}

inline bsk_conv conv_shape(std::int64_t in_c, std::int64_t in_h, std::int64_t in_w, std::int64_t out_c, std::int64_t kh, std::int64_t kw,
                           std::int64_t stride_h, std::int64_t stride_w, std::int64_t pad_h, std::int64_t pad_w,
                           std::int64_t dilation_h = 1, std::int64_t dilation_w = 1, std::int64_t groups = 1) {
  bsk_conv g{};
  g.in_c = in_c, g.in_h = in_h, g.in_w = in_w, g.out_c = out_c, g.groups = groups;
  g.kernel_h = kh, g.kernel_w = kw, g.stride_h = stride_h, g.stride_w = stride_w, g.dilation_h = dilation_h, g.dilation_w = dilation_w;
  g.pad_top = pad_h, g.pad_left = pad_w;
  g.out_h = (in_h + 2 * pad_h - dilation_h * (kh - 1) - 1) / stride_h + 1;
  g.out_w = (in_w + 2 * pad_w - dilation_w * (kw - 1) - 1) / stride_w + 1;
  return g;
}

// What the layer's values may be.
struct Ranges {
  bool in_signed = false;
  std::int32_t in_lo = 0, in_hi = 255;
  int out_item = 1;
  bool out_signed = false;
  int res_item = 0;  // 0: none; 1, -1, 2, 4 as in Requant; 3: a signed byte that is stored + 128
  int mode = 0;      // 0: 32 bits, mult 1; 1: 32 bits; 2: 64 bits
  bool largest = false;  // all levels and all inputs of the largest magnitude
  bool heavy = false;    // inputs of the largest byte where levels are positive, else of the smallest: near what int16 sums hold
};

struct ConvCase {
  ConvLayer layer;
  PackedWeights weights;
  std::vector<std::int32_t> levels;  // [output][tap][input of the group]
  std::vector<std::int32_t> mult, offset32, shift, res_shift, correction;
  std::vector<std::int64_t> offset64, offset;  // offset: as in the model file
  std::int64_t samples = 1;
  std::vector<std::int32_t> x, res;  // integers, [sample][y][x][c]
  std::vector<std::uint8_t> in, residual;  // maps

  ConvCase(const bsk_conv &g, const bitshift_format &f, Ranges r, std::int64_t samples_, Rng &rng, int limit = 127, bool spare = true);

  std::vector<std::uint8_t> run(const ConvKernel &k, int threads) const;
  std::vector<std::int64_t> reference() const;  // [sample][y][x][c]
};

inline std::int64_t load_item(const std::uint8_t *p, int item) {
  if (item == 1) return *p;
  if (item == 2) {
    std::int16_t v;
    std::memcpy(&v, p, 2);
    return v;
  }
  std::int32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// Borders hold `zero`; the slack and nothing else is noise.
inline std::vector<std::uint8_t> to_map(const std::vector<std::int32_t> &x, const Map &m, std::int64_t samples, bool biased, Rng &rng) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(m.bytes() * samples));
  for (auto &b : out) b = static_cast<std::uint8_t>(rng());
  std::size_t i = 0;
  for (std::int64_t s = 0; s < samples; ++s) {
    std::uint8_t *base = out.data() + s * m.bytes();
    std::memset(base, m.zero, static_cast<std::size_t>((m.height + 2 * m.border_h) * m.row()));
    for (std::int64_t y = 0; y < m.height; ++y)
      for (std::int64_t c = 0; c < m.width * m.channels; ++c, ++i) {
        std::uint8_t *p = base + m.origin() + y * m.row() + c * m.item;
        if (m.item == 1) *p = static_cast<std::uint8_t>(x[i] + (biased ? 128 : 0));
        else std::memcpy(p, &x[i], static_cast<std::size_t>(m.item));
      }
  }
  return out;
}

inline ConvCase::ConvCase(const bsk_conv &g, const bitshift_format &f, Ranges r, std::int64_t samples_, Rng &rng, int limit, bool spare)
    : samples(samples_) {
  const std::int64_t per = g.in_c / g.groups, taps = g.kernel_h * g.kernel_w, k = per * taps;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(g.out_c * k));
  std::uint8_t top = 0;
  for (int c = 0; c < 1 << f.bits; ++c)
    if (c != f.reserved && std::llabs(f.levels[c]) == f.max_level) top = static_cast<std::uint8_t>(c);
  const auto ends = std::minmax_element(f.levels, f.levels + (1 << f.bits));
  const std::int64_t chance = draw(rng, 1, 100);
  std::vector<bool> up(static_cast<std::size_t>(per));  // heavy: inputs whose levels are positive
  for (std::size_t i = 0; i < up.size(); ++i) up[i] = draw(rng, 0, 4) != 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    std::uint8_t &c = codes[i];
    if (r.heavy && draw(rng, 1, 100) <= chance) {
      c = static_cast<std::uint8_t>((up[i % static_cast<std::size_t>(k) / static_cast<std::size_t>(taps)] ? ends.second : ends.first) - f.levels);
      continue;
    }
    do c = r.largest ? top : static_cast<std::uint8_t>(draw(rng, 0, (1 << f.bits) - 1));
    while (c == f.reserved);
  }
  weights = pack_conv(g, f, limit, [&](std::int64_t o) { return codes.data() + o * k; });
  levels.resize(codes.size());
  std::int64_t largest_sum = 1;
  for (std::int64_t o = 0; o < g.out_c; ++o) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < per; ++i)
      for (std::int64_t t = 0; t < taps; ++t) {
        const std::int32_t v = f.levels[codes[static_cast<std::size_t>(o * k + i * taps + t)]];
        levels[static_cast<std::size_t>(o * k + t * per + i)] = v;
        sum += std::abs(v);
      }
    largest_sum = std::max(largest_sum, sum);
  }
  // The loader's proof: sums fit int32; and for 32-bit modes the requantisation does.
  std::int64_t reach = std::max(-static_cast<std::int64_t>(r.in_lo), static_cast<std::int64_t>(r.in_hi));
  while (largest_sum * reach > (r.mode == 2 ? INT32_MAX : (1 << 29))) {
    r.in_lo /= 2, r.in_hi /= 2;
    reach = std::max(-static_cast<std::int64_t>(r.in_lo), static_cast<std::int64_t>(r.in_hi));
  }
  const std::int64_t bound = largest_sum * std::max<std::int64_t>(reach, 1);

  layer.g = g;
  layer.w = weights.w;
  layer.in_lo = r.in_lo, layer.in_hi = r.in_hi;
  layer.acc_bound = bound;
  layer.wino1_max = weights.wino1_max, layer.wino2_max = weights.wino2_max;
  layer.tap_sums = weights.tap_sums.empty() ? nullptr : weights.tap_sums.data();
  const auto extra = [&] { return spare ? draw(rng, 0, 2) : 0; };
  const std::int64_t bottom = (g.out_h - 1) * g.stride_h - g.pad_top + (g.kernel_h - 1) * g.dilation_h - (g.in_h - 1);
  const std::int64_t right = (g.out_w - 1) * g.stride_w - g.pad_left + (g.kernel_w - 1) * g.dilation_w - (g.in_w - 1);
  layer.in.height = g.in_h, layer.in.width = g.in_w, layer.in.channels = g.in_c;
  layer.in.border_h = std::max<std::int64_t>({g.pad_top, bottom, 0}) + extra();
  layer.in.border_w = std::max<std::int64_t>({g.pad_left, right, 0}) + extra();
  layer.in.zero = r.in_signed ? 128 : 0;
  for (Map *m : {&layer.out, &layer.res}) m->height = g.out_h, m->width = g.out_w, m->channels = g.out_c;
  layer.out.item = r.out_item;
  layer.out.zero = r.out_item == 1 && r.out_signed ? 128 : 0;
  if (r.out_item == 1) layer.out.border_h = spare ? draw(rng, 0, 2) : 1, layer.out.border_w = spare ? draw(rng, 0, 2) : 1;
  layer.res.item = r.res_item == 2 || r.res_item == 4 ? r.res_item : 1;
  layer.res.zero = r.res_item == 3 ? 128 : 0;
  if (layer.res.item == 1) layer.res.border_h = extra(), layer.res.border_w = extra();

  const auto room = static_cast<std::size_t>((g.out_c + 63) / 64 * 64);
  for (auto *v : {&mult, &offset32, &shift, &res_shift, &correction}) v->assign(room, 0);
  offset64.assign(room, 0);
  offset.assign(room, 0);
  const auto log2_of = [](double v) { int b = 0; while (v >= 2) v /= 2, ++b; return b; };
  const std::int32_t res_lo = r.res_item == 0 ? 0 : r.res_item == 1 ? 0 : r.res_item == 2 ? -32768 : r.res_item == 4 ? -2000000 : -128;
  const std::int32_t res_hi = r.res_item == 0 ? 0 : r.res_item == 1 ? 255 : r.res_item == 2 ? 32767 : r.res_item == 4 ? 2000000 : 127;
  const std::int64_t res_zero = r.res_item == 3 ? 128 : 0;
  for (std::int64_t c = 0; c < g.out_c; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const std::int64_t most = r.mode == 2 ? 65535 : std::min<std::int64_t>(65535, (std::int64_t{1} << 30) / bound);
    mult[i] = static_cast<std::int32_t>(r.mode == 0 ? 1 : draw(rng, 1, most));
    const double spread = static_cast<double>(bound) * mult[i];
    const int bits = log2_of(spread);
    shift[i] = static_cast<std::int32_t>(std::max<std::int64_t>(0, bits - (r.out_item == 1 ? draw(rng, 5, 11) : draw(rng, 12, 24))));
    if (r.mode == 2 && r.res_item == 0 && draw(rng, 0, 9) == 0) shift[i] = static_cast<std::int32_t>(draw(rng, 32, 62));
    const std::int64_t res_reach = std::max<std::int64_t>(res_hi, -static_cast<std::int64_t>(res_lo)) + 1;
    if (r.res_item != 0) res_shift[i] = static_cast<std::int32_t>(std::min<std::int64_t>(r.mode == 2 ? 30 : std::max(0, 28 - log2_of(static_cast<double>(res_reach))), shift[i]));
    const std::int64_t wide = std::int64_t{1} << (r.mode == 2 ? std::min(bits, 45) : std::min(bits, 27));
    offset[i] = draw(rng, -wide / 8, wide / 4);
    correction[i] = static_cast<std::int32_t>(layer.in.zero * weights.level_sums[i]);
    const std::int64_t res_fold = res_zero << res_shift[i];
    offset64[i] = offset[i] - res_fold;
    offset32[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(offset[i] - res_fold - static_cast<std::int64_t>(correction[i]) * mult[i]));
  }
  Requant &q = layer.q;
  q.mult = mult.data(), q.offset32 = offset32.data(), q.shift = shift.data(), q.res_shift = res_shift.data();
  q.correction = correction.data(), q.offset64 = offset64.data();
  q.narrow = r.mode != 2, q.unit = r.mode == 0;
  q.residual = r.res_item != 0;
  q.res_item = r.res_item == 3 || r.res_item == 0 ? 1 : r.res_item;
  q.out_item = r.out_item;
  q.out_zero = layer.out.zero;
  const std::int64_t lo = r.out_item == 1 ? (r.out_signed ? -128 : 0) : r.out_item == 2 ? -32768 : INT32_MIN;
  const std::int64_t hi = r.out_item == 1 ? (r.out_signed ? 127 : 255) : r.out_item == 2 ? 32767 : INT32_MAX;
  q.lo = static_cast<std::int32_t>(draw(rng, 0, 2) ? lo : lo / 2);
  q.hi = static_cast<std::int32_t>(draw(rng, 0, 2) ? hi : hi / 2);

  x.resize(static_cast<std::size_t>(samples * g.in_h * g.in_w * g.in_c));
  if (r.heavy)
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = up[i % static_cast<std::size_t>(per)] ? r.in_hi : r.in_lo;
  else
    for (auto &v : x) v = static_cast<std::int32_t>(r.largest ? (reach == r.in_hi ? r.in_hi : r.in_lo) : draw(rng, r.in_lo, r.in_hi));
  in = to_map(x, layer.in, samples, r.in_signed, rng);
  res.resize(r.res_item ? static_cast<std::size_t>(samples * g.out_h * g.out_w * g.out_c) : 0);
  for (auto &v : res) v = static_cast<std::int32_t>(draw(rng, res_lo, res_hi));
  if (r.res_item) residual = to_map(res, layer.res, samples, r.res_item == 3, rng);
}

}  // namespace bitshift::simd::testing
#endif
