// Codes to kernel layout and back: every format, every geometry class, against index arithmetic from common.h's words.
#include "../simd/pack.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

using namespace bitshift::simd;

namespace {

int failures = 0;
std::mt19937 rng(1);

std::int64_t draw(std::int64_t lo, std::int64_t hi) { return lo + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(hi - lo + 1)); }

void expect(bool ok, const char *what, const char *format, std::int64_t detail) {
  if (ok) return;
  std::printf("FAILED %s: %s (%lld)\n", what, format, static_cast<long long>(detail));
  ++failures;
}

std::vector<std::uint8_t> random_codes(std::int64_t n, const bitshift_format &f) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
  for (auto &c : codes) do c = static_cast<std::uint8_t>(draw(0, (1 << f.bits) - 1)); while (c == f.reserved);
  return codes;
}

void superblocks_survive_a_round_trip(const bitshift_format &f) {
  const auto codes = random_codes(kSuper, f);
  std::uint8_t packed[512], back[kSuper];
  pack_superblock(codes.data(), f.bits, packed);
  unpack_superblock(packed, f.bits, back);
  expect(std::memcmp(codes.data(), back, kSuper) == 0, "round trip of a superblock", f.name, 0);
}

// pot4's first row holds X0 in its low and X1 in its high nibbles, and so on: the layout itself, not only its inverse.
void rows_hold_the_bits_that_the_layout_says() {
  std::uint8_t codes[kSuper], packed[512];
  for (int bits = 1; bits <= 8; ++bits) {
    for (auto &c : codes) c = static_cast<std::uint8_t>(draw(0, (1 << bits) - 1));
    pack_superblock(codes, bits, packed);
    for (int i = 0; i < 64; ++i) {
      const auto X = [&](int z) { return codes[z * 64 + i]; };
      bool ok = true;
      const int low = bits >= 4 && bits < 8 ? 4 : 0;  // nibbles first
      for (int r = 0; r < low; ++r) ok = ok && packed[r * 64 + i] == ((X(2 * r) & 15) | (X(2 * r + 1) & 15) << 4);
      if (bits == 1)
        for (int z = 0; z < 8; ++z) ok = ok && (packed[i] >> z & 1) == X(z);
      if (bits == 2 || bits == 6 || bits == 7) {
        const int shift = bits == 2 ? 0 : 4;
        for (int z = 0; z < 8; ++z) ok = ok && (packed[(low + z / 4) * 64 + i] >> (2 * (z % 4)) & 3) == (X(z) >> shift & 3);
      }
      if (bits == 5 || bits == 7)
        for (int z = 0; z < 8; ++z) ok = ok && (packed[(bits - 1) * 64 + i] >> z & 1) == X(z) >> (bits - 1);
      if (bits == 3)
        ok = packed[i] == (X(0) | X(1) << 3 | (X(6) & 3) << 6) && packed[64 + i] == (X(2) | X(3) << 3 | (X(7) & 3) << 6) &&
             packed[128 + i] == (X(4) | X(5) << 3 | X(6) >> 2 << 6 | X(7) >> 2 << 7);
      if (bits == 8)
        for (int z = 0; z < 8; ++z) ok = ok && packed[z * 64 + i] == X(z);
      expect(ok, "bits of a row", "byte", bits * 100 + i);
    }
  }
}

void planes_add_up_to_the_levels(const bitshift_format &f, int limit) {
  Weights w;
  expect(split_levels(f, limit, w), "split", f.name, limit);
  for (int code = 0; code < 1 << f.bits; ++code) {
    std::int64_t level = 0;
    for (int p = 0; p < w.planes; ++p) {
      expect(std::abs(w.table[p][code]) <= limit, "entry within the limit", f.name, code);
      level = (level + w.table[p][code]) * (std::int64_t{1} << w.shift[p]);
    }
    expect(level == f.levels[code], "planes of a level", f.name, code);
  }
  expect(w.shift[w.planes - 1] == 0, "no shift behind the last plane", f.name, limit);
  if (f.max_level <= limit) expect(w.planes == 1, "one plane where one serves", f.name, limit);
}

std::uint8_t code_at(const Weights &w, std::int64_t group, std::int64_t output, std::int64_t segment, std::int64_t k) {
  std::uint8_t codes[kSuper];
  const std::int64_t step = segment * w.segment_steps + k / kStep;
  const auto block = static_cast<std::size_t>(group * w.blocks + output / kLanes);
  unpack_superblock(w.packed + block * w.block_bytes() + step / 8 * 64 * w.format->bits, w.format->bits, codes);
  return codes[step % 8 * 64 + output % kLanes * kStep + k % kStep];
}

std::uint8_t tap_code(const Weights &w, std::int64_t output, std::int64_t tap) {
  const std::uint8_t *word = w.packed + static_cast<std::size_t>(output / kLanes) * w.block_bytes() + tap * 2 * w.format->bits;
  const std::int64_t lane = output % kLanes;
  int code = 0;
  for (int b = 0; b < w.format->bits; ++b) code |= (word[2 * b + lane / 8] >> lane % 8 & 1) << b;
  return static_cast<std::uint8_t>(code);
}

void a_layer_lies_as_its_geometry_says(const bitshift_format &f, const bsk_conv &g) {
  const std::int64_t per = g.in_c / g.groups, taps = g.kernel_h * g.kernel_w, k = per * taps, outs = g.out_c / g.groups;
  const auto codes = random_codes(g.out_c * k, f);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(k));
  const PackedWeights p = pack_conv(g, f, 127, [&](std::int64_t o) {  // one buffer for all rows: the least a caller may offer
    std::memcpy(row.data(), codes.data() + o * k, row.size());
    return row.data();
  });
  const bool depthwise = g.groups > 1 && per == 1;
  int wino1 = 0, wino2 = 0;
  for (std::int64_t o = 0; o < g.out_c; ++o) {
    std::int64_t sum = 0;
    const std::uint8_t *c = codes.data() + o * k;
    for (std::int64_t i = 0; i < per; ++i)
      for (std::int64_t t = 0; t < taps; ++t) {
        if (f.levels) sum += f.levels[c[i * taps + t]];
        const std::int64_t y = t / g.kernel_w, x = t % g.kernel_w;
        std::uint8_t got;
        if (depthwise) got = tap_code(p.w, o, t);
        else if (g.groups == 1 && g.dilation_w == 1) got = code_at(p.w, 0, o, y, x * per + i);
        else got = code_at(p.w, o / outs, o % outs, t, i);
        expect(got == c[i * taps + t], "code of a weight", f.name, o);
      }
    if (f.levels) expect(p.level_sums[static_cast<std::size_t>(o)] == sum, "sum of an output's levels", f.name, o);
    if (p.wino2_max == 0) continue;
    for (std::int64_t t = 0; t < 9; ++t) {
      std::int32_t tap = 0;
      for (std::int64_t i = 0; i < per; ++i) tap += f.levels[c[i * 9 + t]];
      expect(p.tap_sums[static_cast<std::size_t>(t * 16 * p.w.blocks + o)] == tap, "sum of a tap's levels", f.name, o);
    }
    static const int G[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
    for (std::int64_t i = 0; i < per; ++i)
      for (auto &gy : G)
        for (auto &gx : G) {
          int two = 0;
          for (int y = 0; y < 3; ++y) {
            int one = 0;
            for (int x = 0; x < 3; ++x) one += gx[x] * f.levels[c[i * 9 + y * 3 + x]];
            wino1 = std::max(wino1, std::abs(one));
            two += gy[y] * one;
          }
          wino2 = std::max(wino2, std::abs(two));
        }
  }
  expect(p.wino1_max == wino1 && p.wino2_max == wino2, "winograd range", f.name, wino2);
  expect(reinterpret_cast<std::uintptr_t>(p.w.packed) % 64 == 0, "alignment", f.name, 0);
}

}  // namespace

int main() {
  rows_hold_the_bits_that_the_layout_says();
  for (const bitshift_format &f : bitshift_formats) {
    superblocks_survive_a_round_trip(f);
    if (f.levels)
      for (int limit : {127, 64}) planes_add_up_to_the_levels(f, limit);
    for (int round = 0; round < 8; ++round) {
      bsk_conv g{};
      const bool three = round % 2 == 0;
      g.groups = round == 3 || round == 5 ? draw(2, 4) : 1;
      g.in_c = g.groups * (round == 5 ? 1 : three ? 4 * draw(1, 5) : draw(1, 19));
      g.out_c = g.groups * draw(1, 35);
      g.kernel_h = three ? 3 : draw(1, 5);
      g.kernel_w = three ? 3 : draw(1, 7);
      g.stride_h = g.stride_w = g.dilation_h = 1;
      g.dilation_w = round == 7 ? 2 : 1;
      a_layer_lies_as_its_geometry_says(f, g);
    }
  }
  if (failures == 0) std::printf("pack: all equal\n");
  return failures != 0;
}
