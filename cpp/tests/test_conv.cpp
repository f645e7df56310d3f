// Every convolution kernel of every instruction set of this processor against loops over int64, with buffers of the exact size.
#include "conv_case.h"

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "../simd/isa.h"

namespace bitshift::simd::testing {

std::vector<std::int64_t> ConvCase::reference() const {
  const bsk_conv &g = layer.g;
  const std::int64_t per = g.in_c / g.groups, taps = g.kernel_h * g.kernel_w, outs = g.out_c / g.groups;
  std::vector<std::int64_t> out;
  out.reserve(static_cast<std::size_t>(samples * g.out_h * g.out_w * g.out_c));
  for (std::int64_t s = 0; s < samples; ++s)
    for (std::int64_t oy = 0; oy < g.out_h; ++oy)
      for (std::int64_t ox = 0; ox < g.out_w; ++ox)
        for (std::int64_t o = 0; o < g.out_c; ++o) {
          std::int64_t acc = 0;
          for (std::int64_t t = 0; t < taps; ++t) {
            const std::int64_t y = oy * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
            const std::int64_t xx = ox * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
            if (y < 0 || y >= g.in_h || xx < 0 || xx >= g.in_w) continue;
            const std::int32_t *p = &x[static_cast<std::size_t>(((s * g.in_h + y) * g.in_w + xx) * g.in_c + o / outs * per)];
            const std::int32_t *w = &levels[static_cast<std::size_t>((o * taps + t) * per)];
            for (std::int64_t i = 0; i < per; ++i) acc += static_cast<std::int64_t>(p[i]) * w[i];
          }
          const auto c = static_cast<std::size_t>(o);
          std::int64_t v = acc * mult[c] + offset[c];
          if (!res.empty()) v += static_cast<std::int64_t>(res[out.size()]) * (std::int64_t{1} << res_shift[c]);
          out.push_back(std::min<std::int64_t>(std::max<std::int64_t>(v >> shift[c], layer.q.lo), layer.q.hi));
        }
  return out;
}

std::vector<std::uint8_t> ConvCase::run(const ConvKernel &k, int threads) const {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(layer.out.bytes() * samples), 0xA5);
  const std::size_t bytes = k.scratch(layer, samples, threads);
  std::vector<std::uint8_t> memory(bytes + 63);
  std::uint8_t *scratch = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
  for (int phase = 0; phase < k.phases; ++phase) {
    std::vector<std::thread> team;
    for (int t = threads - 1; t >= 0; --t) {
      Task task;
      task.in = in.data(), task.residual = residual.empty() ? nullptr : residual.data(), task.out = out.data();
      task.in_stride = layer.in.bytes(), task.res_stride = layer.res.bytes(), task.out_stride = layer.out.bytes();
      task.samples = samples, task.scratch = scratch, task.thread = t, task.threads = threads;
      if (t == 0) k.run(layer, task, phase);
      else team.emplace_back([this, &k, task, phase] { k.run(layer, task, phase); });
    }
    for (auto &t : team) t.join();
  }
  return out;
}

}  // namespace bitshift::simd::testing

using namespace bitshift::simd;
using namespace bitshift::simd::testing;

namespace {

int failures = 0;
std::int64_t runs = 0, inner = 0, values = 0;  // how much of the outputs lies inside the clamp: a test of constants shows nothing

void describe(const ConvCase &c, const char *isa, const char *kernel, int threads) {
  const bsk_conv &g = c.layer.g;
  const Requant &q = c.layer.q;
  std::printf("  %s %s: %s in %lldx%lldx%lld out %lldx%lldx%lld kernel %lldx%lld stride %lldx%lld dilation %lldx%lld groups %lld pad %lldx%lld "
              "range %d..%d planes %d narrow %d unit %d res %d out %d samples %lld threads %d\n", isa, kernel, c.layer.w.format->name,
              (long long)g.in_c, (long long)g.in_h, (long long)g.in_w, (long long)g.out_c, (long long)g.out_h, (long long)g.out_w,
              (long long)g.kernel_h, (long long)g.kernel_w, (long long)g.stride_h, (long long)g.stride_w, (long long)g.dilation_h,
              (long long)g.dilation_w, (long long)g.groups, (long long)g.pad_top, (long long)g.pad_left, c.layer.in_lo, c.layer.in_hi,
              c.layer.w.planes, q.narrow, q.unit, q.residual ? q.res_item : 0, q.out_item, (long long)c.samples, threads);
}

bool equal(const ConvCase &c, const std::vector<std::uint8_t> &out, const std::vector<std::int64_t> &want) {
  const Map &m = c.layer.out;
  std::vector<std::uint8_t> expected(out.size(), 0xA5);  // borders and slack stay as they were
  std::size_t i = 0;
  for (std::int64_t s = 0; s < c.samples; ++s)
    for (std::int64_t y = 0; y < m.height; ++y)
      for (std::int64_t k = 0; k < m.width * m.channels; ++k, ++i) {
        const auto v = static_cast<std::int32_t>(want[i] + (m.item == 1 ? m.zero : 0));
        std::memcpy(expected.data() + s * m.bytes() + m.origin() + y * m.row() + k * m.item, &v, static_cast<std::size_t>(m.item));
        inner += want[i] > c.layer.q.lo && want[i] < c.layer.q.hi;
        ++values;
      }
  if (out == expected) return true;
  for (std::size_t b = 0; b < out.size(); ++b)
    if (out[b] != expected[b]) {
      std::printf("FAILED: byte %zu of %zu is %d, not %d\n", b, out.size(), out[b], expected[b]);
      break;
    }
  return false;
}

// Returns how many kernels took the layer.
int check(const ConvCase &c, const Isa &isa, int threads) {
  const auto want = c.reference();
  int took = 0;
  for (const ConvKernel *k : isa.conv) {
    if (!k->can(c.layer)) continue;
    ++took, ++runs;
    if (!equal(c, c.run(*k, threads), want)) {
      describe(c, isa.name, k->name, threads);
      ++failures;
    }
  }
  return took;
}

const bitshift_format &random_format(Rng &rng) {
  for (;;) {
    const bitshift_format &f = bitshift_formats[draw(rng, 0, BITSHIFT_FORMAT_COUNT - 1)];
    if (f.levels) return f;
  }
}

Ranges random_ranges(Rng &rng) {
  static const int res_items[] = {0, 0, 1, 1, 3, -1, 2, 4}, out_items[] = {1, 1, 1, 1, 2, 4};
  Ranges r;
  r.in_signed = draw(rng, 0, 1);
  const std::int64_t bits = draw(rng, 3, 8);
  r.in_lo = r.in_signed ? -(1 << (bits - 1)) : 0;
  r.in_hi = r.in_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
  r.out_item = out_items[draw(rng, 0, 5)];
  r.out_signed = draw(rng, 0, 1);
  r.res_item = res_items[draw(rng, 0, 7)];
  r.mode = static_cast<int>(draw(rng, 0, 2));
  r.largest = draw(rng, 0, 15) == 0;
  return r;
}

void any_geometry(const Isa &isa, Rng &rng, int rounds) {
  int took = 0;
  for (int i = 0; i < rounds; ++i) {
    const std::int64_t groups = draw(rng, 0, 3) ? 1 : draw(rng, 2, 4), kh = draw(rng, 1, 5), kw = draw(rng, 1, 5);
    const std::int64_t per = draw(rng, 0, 2) ? draw(rng, 1, 24) : 4 * draw(rng, 1, 16), outs = draw(rng, 1, 50);
    const std::int64_t dh = draw(rng, 0, 3) ? 1 : 2, dw = draw(rng, 0, 3) ? 1 : 2, ph = draw(rng, 0, 3), pw = draw(rng, 0, 3);
    const bool line = draw(rng, 0, 5) == 0;  // 1-d
    const std::int64_t h = line ? 1 : dh * (kh - 1) + draw(rng, 1, 12), w = dw * (kw - 1) + draw(rng, 1, 32);
    const bsk_conv g = conv_shape(per * groups, h, w, outs * groups, line ? 1 : kh, kw, line ? 1 : draw(rng, 1, 3), draw(rng, 1, 3),
                                  line ? 0 : ph, pw, line ? 1 : dh, dw, groups);
    const ConvCase c(g, random_format(rng), random_ranges(rng), draw(rng, 1, 3), rng, isa.limit);
    took += check(c, isa, static_cast<int>(draw(rng, 1, 3)));
  }
  if (took < rounds * 8 / 10) std::printf("FAILED: only %d of %d geometries were taken\n", took, rounds), ++failures;
}

// 3x3, stride 1: where the kernels must agree with each other, in formats and ranges that Winograd takes.
void three_by_three(const Isa &isa, Rng &rng, int rounds) {
  int took = 0;
  static const char *formats[] = {"pot1", "pot2", "pot2d", "pot3", "pot3d", "pot4x2", "apot4", "int3", "int4", "int5"};
  for (int i = 0; i < rounds; ++i) {
    const bitshift_format *f = nullptr;
    const std::string name = formats[draw(rng, 0, 9)];
    for (const auto &each : bitshift_formats)
      if (name == each.name) f = &each;
    Ranges r = random_ranges(rng);
    const std::int64_t bits = draw(rng, 4, 7);
    r.in_lo = r.in_signed ? -(1 << (bits - 1)) : 0;
    r.in_hi = r.in_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
    const bsk_conv g = conv_shape(4 * draw(rng, 1, 40), draw(rng, 3, 20), draw(rng, 3, 34), draw(rng, 1, 90), 3, 3, 1, 1, draw(rng, 0, 2), draw(rng, 0, 2));
    const ConvCase c(g, *f, r, draw(rng, 1, 3), rng, isa.limit);
    took += check(c, isa, static_cast<int>(draw(rng, 1, 3)));
  }
  std::printf("%s: %.2f kernels a 3x3 layer\n", isa.name, static_cast<double>(took) / rounds);
}

// Sums that fill 16 bits, where a kernel adds up as many steps in them as it may.
void heavy_sums(const Isa &isa, Rng &rng, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    Ranges r = random_ranges(rng);
    const int bits = i % 4 == 0 ? 6 : i % 4 == 1 ? 7 : 8;
    r.in_lo = r.in_signed ? -(1 << (bits - 1)) : 0;
    r.in_hi = r.in_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
    r.heavy = true, r.largest = false;
    const std::int64_t kernel = draw(rng, 0, 2) ? 3 : 1, channels = draw(rng, 0, 3) ? 4 * draw(rng, 1, 70) : draw(rng, 1, 40);
    const std::int64_t outputs = draw(rng, 0, 2) ? draw(rng, 1, 4) : draw(rng, 1, 70);  // few: their largest sum is often a close one
    const bsk_conv g = conv_shape(channels, 5, 5, outputs, kernel, kernel, 1, 1, kernel / 2, kernel / 2);
    const ConvCase c(g, random_format(rng), r, 1, rng, isa.limit);
    check(c, isa, 1);
  }
}

// The largest sums: every level and every input at the end of its range, in every format, on 3x3 so that all kernels meet.
void largest_values(const Isa &isa, Rng &rng) {
  for (const bitshift_format &f : bitshift_formats) {
    if (!f.levels) continue;
    for (const int bits : {6, 7, 8})
      for (const bool with_sign : {false, true}) {
        Ranges r;
        r.in_signed = with_sign;
        r.in_lo = with_sign ? -(1 << (bits - 1)) : 0;
        r.in_hi = with_sign ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
        r.largest = true;
        r.mode = static_cast<int>(draw(rng, 0, 2));
        r.res_item = draw(rng, 0, 1) ? 1 : 0;
        const bsk_conv g = conv_shape(32 * draw(rng, 1, 2), 9, draw(rng, 7, 15), 33, 3, 3, 1, 1, 1, 1);
        check(ConvCase(g, f, r, 1, rng, isa.limit), isa, 2);
      }
  }
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  Rng rng(argc > 2 ? static_cast<std::uint64_t>(std::atoll(argv[2])) : 1);
  if (isas().empty()) std::printf("no fast kernels for this processor\n");
  for (const Isa &isa : isas()) {
    if (isa.conv.empty()) continue;
    any_geometry(isa, rng, rounds);
    three_by_three(isa, rng, rounds / 2);
    largest_values(isa, rng);
    heavy_sums(isa, rng, rounds / 2);
  }
  std::printf("conv: %lld runs, %.0f %% of the outputs inside the clamp, %d failures\n", static_cast<long long>(runs),
              values ? 100.0 * static_cast<double>(inner) / static_cast<double>(values) : 100.0, failures);
  if (values && inner * 4 < values) std::printf("FAILED: too few outputs inside the clamp\n"), ++failures;
  return failures != 0;
}
