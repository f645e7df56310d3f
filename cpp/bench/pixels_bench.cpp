// Times of the kernels on maps and of depthwise convolution, one thread, each instruction set of this machine: the fastest and the
// median of many short rounds. The shapes are those of ResNet-18 (224 x 224) and MobileNetV2; random bytes, 3-bit weights.
//   pixels_bench [rounds] [name part]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../simd/isa.h"
#include "../simd/pack.h"

using namespace bitshift::simd;

namespace {

int rounds = 40;
const char *part = "";

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Cycles a second: a chain of dependent additions takes one each.
double clock_rate() {
  double best = 0;
  for (int round = 0; round < 20; round++) {
    const double start = seconds();
    std::uint64_t x = 0;
    for (int i = 0; i < 100000; i++) asm volatile("" : "+r"(x = x + 1));
    best = std::max(best, 1e5 / (seconds() - start));
  }
  return best;
}

struct Buffer {
  AlignedBytes bytes;
  explicit Buffer(std::size_t n) : bytes(n) {
    std::mt19937 rng(3);
    for (std::size_t i = 0; i < n; i++) bytes.data()[i] = static_cast<std::uint8_t>(rng() >> 24);
  }
};

Map map_of(std::int64_t c, std::int64_t h, std::int64_t w, std::int64_t border) {
  Map m;
  m.channels = c;
  m.height = h;
  m.width = w;
  m.border_h = m.border_w = border;
  return m;
}

// work: channel-pixels of the output; moved: bytes read and written.
double report(const char *isa, const std::string &name, double rate, double work, double moved, const std::function<void()> &run) {
  if (name.find(part) == std::string::npos) return 0;
  double once = seconds();
  run();
  once = seconds() - once;
  const int repeats = std::max(1, static_cast<int>(3e-4 / std::max(once, 1e-7)));
  std::vector<double> times;
  for (int r = 0; r < rounds; r++) {
    const double start = seconds();
    for (int i = 0; i < repeats; i++) run();
    times.push_back((seconds() - start) / repeats);
  }
  std::sort(times.begin(), times.end());
  std::printf("%-8s %-34s %9.2f us (median %9.2f) %7.1f cycles / 64 outputs %7.1f GB/s\n", isa, name.c_str(), times[0] * 1e6,
              times[times.size() / 2] * 1e6, times[0] * rate / (work / 64), moved / times[0] * 1e-9);
  return times[0];
}

void layouts(const Isa &isa, double rate) {
  const std::int64_t shapes[][4] = {{3, 224, 224, 3}, {1, 28, 28, 1}, {64, 56, 56, 1}, {512, 7, 7, 0}, {2048, 7, 7, 0}, {512, 1, 1, 0}};
  for (const auto &s : shapes) {
    const Map map = map_of(s[0], s[1], s[2], s[3]);
    const std::size_t n = static_cast<std::size_t>(s[0] * s[1] * s[2]);
    const std::string shape = std::to_string(s[0]) + "x" + std::to_string(s[1]) + "x" + std::to_string(s[2]);
    Buffer planar(n * 4), bytes(static_cast<std::size_t>(map.bytes()));
    std::vector<float> floats(n);
    for (std::size_t i = 0; i < n; i++) floats[i] = static_cast<float>(planar.bytes.data()[i]) / 64.f - 1.f;
    Task to;
    to.in = planar.bytes.data();
    to.out = bytes.bytes.data();
    Task back;
    back.in = bytes.bytes.data();
    back.out = planar.bytes.data();
    Task image = to;
    image.in = reinterpret_cast<const std::uint8_t *>(floats.data());
    const double work = static_cast<double>(n);
    report(isa.name, "from_planar " + shape, rate, work, 2 * work, [&] { isa.pixels->from_planar(BSK_U8, map, to); });
    report(isa.name, "to_planar " + shape, rate, work, 2 * work, [&] { isa.pixels->to_planar(BSK_U8, map, back); });
    report(isa.name, "quantize " + shape, rate, work, 5 * work, [&] { isa.pixels->quantize(64, 0.5, 0, 255, map, image); });
  }
}

void pools(const Isa &isa, double rate) {
  const std::int64_t shapes[][5] = {{64, 112, 3, 2, 1}, {512, 7, 7, 1, 0}, {2048, 7, 7, 1, 0}, {1280, 7, 7, 1, 0}, {64, 8, 8, 1, 0}, {64, 32, 2, 2, 0}};
  for (const auto &s : shapes) {
    bsk_pool p{s[0], s[1], s[1], 0, 0, s[2], s[2], s[3], s[3], 1, 1, s[4], s[4]};
    p.out_h = p.out_w = (s[1] + 2 * s[4] - s[2]) / s[3] + 1;
    const Map in = map_of(s[0], s[1], s[1], 0), out = map_of(s[0], p.out_h, p.out_w, 1);
    Buffer a(static_cast<std::size_t>(in.bytes())), b(static_cast<std::size_t>(out.bytes()));
    Task t;
    t.in = a.bytes.data();
    t.out = b.bytes.data();
    const std::string shape = std::to_string(s[0]) + "x" + std::to_string(s[1]) + " k" + std::to_string(s[2]) + " s" + std::to_string(s[3]);
    const double work = static_cast<double>(p.channels * p.out_h * p.out_w), moved = work + static_cast<double>(s[0] * s[1] * s[1]);
    report(isa.name, "max_pool " + shape, rate, work, moved, [&] { isa.pixels->max_pool(p, in, out, t); });
    report(isa.name, "avg_pool " + shape, rate, work, moved, [&] { isa.pixels->avg_pool(p, 1337, 32768, 16, 0, 255, in, out, t); });
  }
}

void elements(const Isa &isa, double rate) {
  for (std::int64_t c : {24, 64}) {
    const Map m = map_of(c, 56, 56, 1), wide = map_of(2 * c, 56, 56, 0);
    Buffer a(static_cast<std::size_t>(m.bytes())), b(static_cast<std::size_t>(m.bytes())), y(static_cast<std::size_t>(wide.bytes())), table(256);
    Task t;
    t.in = a.bytes.data();
    t.out = y.bytes.data();
    const double work = static_cast<double>(c * 56 * 56);
    const std::string shape = std::to_string(c) + "x56x56";
    report(isa.name, "table " + shape, rate, work, 2 * work, [&] { isa.pixels->table(table.bytes.data(), m, m, t); });
    report(isa.name, "border " + shape, rate, work, 0, [&] { isa.pixels->border(m, t); });
    report(isa.name, "channels " + shape, rate, work, 2 * work, [&] { isa.pixels->channels(nullptr, m, c, wide, t); });
    t.residual = b.bytes.data();
    const bsk_add near = {0, 1, 2, 0, 255}, far = {0, 9, 10, 0, 255};
    report(isa.name, "add " + shape, rate, work, 3 * work, [&] { isa.pixels->add(near, m, m, m, t); });
    report(isa.name, "add (32 bits and more) " + shape, rate, work, 3 * work, [&] { isa.pixels->add(far, m, m, m, t); });
  }
}

void depthwise(const Isa &isa, double rate) {
  struct Shape {
    std::int64_t c, size, kernel, stride, count;  // count: how often MobileNetV2 has it
  };
  const Shape shapes[] = {{32, 112, 3, 1, 1}, {96, 112, 3, 2, 1}, {144, 56, 3, 1, 1}, {144, 56, 3, 2, 1}, {192, 28, 3, 1, 2}, {192, 28, 3, 2, 1},
                          {384, 14, 3, 1, 4}, {576, 14, 3, 1, 2}, {576, 14, 3, 2, 1}, {960, 7, 3, 1, 3}, {240, 28, 5, 1, 0}, {240, 28, 5, 2, 0}, {256, 14, 7, 1, 0}};
  double total = 0;
  for (const ConvKernel *kernel : isa.conv) {
    if (std::strcmp(kernel->name, "depthwise") != 0) continue;
    for (const Shape &s : shapes) {
      const std::int64_t pad = s.kernel / 2, out = (s.size + 2 * pad - s.kernel) / s.stride + 1;
      ConvLayer layer;
      layer.g = {s.c, s.size, s.size, s.c, out, out, s.c, s.kernel, s.kernel, s.stride, s.stride, 1, 1, pad, pad};
      layer.in = map_of(s.c, s.size, s.size, pad);
      layer.out = map_of(s.c, out, out, 0);
      std::mt19937 rng(5);
      std::vector<std::uint8_t> row(static_cast<std::size_t>(s.kernel * s.kernel));
      const PackedWeights packed = pack_conv(layer.g, bitshift_formats[BITSHIFT_FORMAT_POT3D], isa.limit, [&](std::int64_t) {
        for (auto &c : row) c = static_cast<std::uint8_t>(rng() & 7u);
        return row.data();
      });
      layer.w = packed.w;
      const std::size_t n = static_cast<std::size_t>((s.c + 63) / 64 * 64);
      const std::vector<std::int32_t> mult(n, 1), shift(n, 6), offset(n, 32), zero(n, 0);
      const std::vector<std::int64_t> offset64(n, 32);
      layer.q.mult = mult.data();
      layer.q.offset32 = offset.data();
      layer.q.shift = shift.data();
      layer.q.res_shift = zero.data();
      layer.q.correction = zero.data();
      layer.q.offset64 = offset64.data();
      layer.q.hi = 255;
      layer.in_hi = 255;
      layer.acc_bound = s.kernel * s.kernel * 8 * 255;
      if (!kernel->can(layer)) continue;
      Buffer a(static_cast<std::size_t>(layer.in.bytes())), b(static_cast<std::size_t>(layer.out.bytes()));
      const AlignedBytes scratch(kernel->scratch(layer, 1, 1));
      Task t;
      t.in = a.bytes.data();
      t.out = b.bytes.data();
      t.scratch = scratch.data();
      const double work = static_cast<double>(s.c * out * out);
      const std::string name = "depthwise " + std::to_string(s.c) + "x" + std::to_string(s.size) + " k" + std::to_string(s.kernel) + " s" + std::to_string(s.stride);
      total += static_cast<double>(s.count) * report(isa.name, name, rate, work, work + static_cast<double>(s.c * s.size * s.size), [&] {
        for (int phase = 0; phase < kernel->phases; phase++) kernel->run(layer, t, phase);
      });
    }
  }
  if (total > 0) std::printf("%-8s depthwise layers of MobileNetV2: %.1f us\n", isa.name, total * 1e6);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc > 1) rounds = std::atoi(argv[1]);
  if (argc > 2) part = argv[2];
  const double rate = clock_rate();
  std::printf("%.2f GHz\n", rate * 1e-9);
  for (const Isa &isa : isas()) {
    layouts(isa, rate);
    pools(isa, rate);
    elements(isa, rate);
    depthwise(isa, rate);
  }
}
