// Times the matrix kernels of one instruction set, weights from DRAM (rotating over 170 MB) or hot, beside plain reading of the
// same bytes and the dot-product peak in the same interleaved rounds. Results are checked by test_linear, test_float, not here.
//
//   linear_bench [isa=avx512] [formats=pot2d,pot3d,pot4] [shapes=4096x4096,11008x4096] (outputs x inputs) [rows=1] [threads=1,2]
//                [cold=1] [rounds=15] [float=0]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "../simd/isa.h"
#include "../simd/pack.h"
#include "../src/pool.h"
#include "../src/probe.h"

using namespace bitshift;
using namespace bitshift::simd;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<std::string> split(const std::string &s) {
  std::vector<std::string> parts;
  std::stringstream stream(s);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

std::uint64_t read_all(const std::uint8_t *p, std::size_t bytes) {
  typedef std::uint64_t Vector __attribute__((vector_size(64), aligned(64)));
  Vector a{}, b{};
  for (std::size_t i = 0; i + 128 <= bytes; i += 128) {
    a ^= *reinterpret_cast<const Vector *>(p + i);
    b ^= *reinterpret_cast<const Vector *>(p + i + 64);
  }
  a ^= b;
  std::uint64_t sum = 0;
  for (int i = 0; i < 8; i++) sum ^= a[i];
  return sum;
}

struct Timed {
  std::string name;
  std::function<void(const std::uint8_t *weights, int thread, int phase)> run;
  int phases = 1;
  std::vector<double> times;
};

double percentile(std::vector<double> v, double at) {
  std::sort(v.begin(), v.end());
  return v[static_cast<std::size_t>(at * static_cast<double>(v.size() - 1))];
}

volatile std::uint64_t sink;

struct Bench {
  const Isa &isa;
  bool cold, floats;
  int rounds;

  void layer(const bitshift_format &format, std::int64_t out, std::int64_t in, std::int64_t rows, int threads) const {
    LinearLayer layer;
    layer.in = in, layer.out = out, layer.signed_in = true;
    layer.w = linear_weights(in, out, format, isa.limit);
    const std::size_t bytes = layer.w.bytes();
    const std::size_t copies = cold ? 170'000'000 / bytes + 1 : 1;
    const AlignedBytes weights(bytes * copies);  // random codes, reserved ones too: they look up 0
    std::mt19937_64 rng(1);
    for (std::size_t i = 0; i < bytes * copies; i += 8) {
      const std::uint64_t word = rng();
      std::memcpy(weights.data() + i, &word, 8);
    }
    const auto padded = static_cast<std::size_t>((out + 63) / 64 * 64);
    const std::vector<std::int32_t> ones(padded, 1), zeros(padded, 0), shifts(padded, 12);
    const std::vector<std::int64_t> zeros64(padded, 0);
    Requant &q = layer.q;
    q.mult = ones.data(), q.offset32 = q.correction = q.res_shift = zeros.data(), q.shift = shifts.data(), q.offset64 = zeros64.data();
    q.lo = -128, q.hi = 127;
    FloatLayer real;
    real.linear = true, real.w = layer.w, real.levels = format.levels_f32;
    real.g.in_c = in, real.g.out_c = out;
    const std::vector<float> scale(padded, 1.0f), bias(padded, 0.0f);
    real.scale = scale.data(), real.bias = bias.data();

    std::vector<std::uint8_t> x(static_cast<std::size_t>(rows * in));
    for (auto &q8 : x) q8 = static_cast<std::uint8_t>(rng());
    std::vector<float> xf(static_cast<std::size_t>(rows * in)), yf(static_cast<std::size_t>(rows * out));
    for (auto &v : xf) v = static_cast<float>(rng() % 2001) / 1000.0f - 1.0f;
    std::vector<std::uint8_t> y(static_cast<std::size_t>(rows * out));
    std::vector<AlignedBytes> scratch;
    std::vector<Timed> cases;
    cases.push_back({"read", [&](const std::uint8_t *p, int t, int) {
                       const std::size_t n = static_cast<std::size_t>(threads), i = static_cast<std::size_t>(t);
                       sink = read_all(p + bytes / 128 * i / n * 128, bytes / 128 * (i + 1) / n * 128 - bytes / 128 * i / n * 128);
                     }, 1, {}});
    Task task;
    task.samples = rows, task.threads = threads;
    const auto add = [&](const auto *kernel, const auto &shape, const void *from, std::int64_t item, void *to, std::int64_t out_item) {
      if (!kernel->can(shape, rows)) return;
      scratch.emplace_back(kernel->scratch(shape, rows, threads));
      Task mine = task;
      mine.in = static_cast<const std::uint8_t *>(from), mine.in_stride = in * item;
      mine.out = static_cast<std::uint8_t *>(to), mine.out_stride = out * out_item;
      mine.scratch = scratch.back().data();
      cases.push_back({kernel->name, [kernel, shape, mine](const std::uint8_t *p, int t, int phase) {
                         auto here = shape;
                         here.w.packed = p;
                         Task part = mine;
                         part.thread = t;
                         kernel->run(here, part, phase);
                       }, kernel->phases, {}});
    };
    if (floats)
      for (const FloatKernel *kernel : isa.floats) add(kernel, real, xf.data(), 4, yf.data(), 4);
    else
      for (const LinearKernel *kernel : isa.linear) add(kernel, layer, x.data(), 1, y.data(), 1);

    const auto pool = shared_pool(threads);
    std::size_t copy = 0;
    const double operations = 2.0 * static_cast<double>(rows * in * out);
    for (int round = 0; round < rounds; round++) {
      for (Timed &c : cases) {
        for (int i = 0; i < (cold ? 5 : 8); i++) {
          copy = (copy + 1) % copies;
          const std::uint8_t *p = weights.data() + bytes * copy;
          const double start = seconds();
          const bool ran = pool->try_run([&](int t) {
            for (int phase = 0; phase < c.phases; phase++) {
              if (phase) pool->barrier();
              c.run(p, t, phase);
            }
          });
          if (!ran) std::abort();
          if (i) c.times.push_back(seconds() - start);  // the first call finds another case's data in the caches
        }
      }
    }
    const double peak = rows >= 8 ? probe_dot(isa.name, threads, 0.1) : 0;
    const double read = percentile(cases[0].times, 0.5);
    for (const Timed &c : cases) {
      const double time = percentile(c.times, 0.5);
      std::printf("%-6s %5lldx%-5lld M=%-3lld T%d %s %-10s %8.1f us [%.1f..%.1f]  %5.1f GB/s  %3.0f %% of read  %6.0f GOP/s", format.name,
                  static_cast<long long>(out), static_cast<long long>(in), static_cast<long long>(rows), threads, cold ? "cold" : "hot ",
                  c.name.c_str(), time * 1e6, percentile(c.times, 0.1) * 1e6, percentile(c.times, 0.9) * 1e6,
                  static_cast<double>(bytes) / time * 1e-9, 100 * read / time, operations / time * 1e-9);
      if (peak > 0 && c.name != "read") std::printf("  %3.0f %% of peak", 100 * operations / time / peak);
      std::printf("\n");
    }
  }
};

}  // namespace

int main(int argc, char **argv) {
  std::map<std::string, std::string> options{{"isa", "avx512"}, {"formats", "pot2d,pot3d,pot4"}, {"shapes", "4096x4096,11008x4096"}, {"rows", "1"},
                                             {"threads", "1,2"}, {"cold", "1"}, {"rounds", "15"}, {"float", "0"}};
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    const auto equal = argument.find('=');
    const auto at = options.find(argument.substr(0, equal));
    if (equal == std::string::npos || at == options.end()) {
      std::fprintf(stderr, "linear_bench: unknown argument '%s'; see the head of linear_bench.cpp\n", argv[i]);
      return 2;
    }
    at->second = argument.substr(equal + 1);
  }
  for (const Isa &isa : isas()) {
    if (options["isa"] != isa.name) continue;
    const Bench bench{isa, options["cold"] == "1", options["float"] == "1", std::stoi(options["rounds"])};
    for (const std::string &shape : split(options["shapes"]))
      for (const bitshift_format &format : bitshift_formats)
        for (const std::string &name : split(options["formats"]))
          for (const std::string &rows : split(options["rows"]))
            for (const std::string &threads : split(options["threads"]))
              if (name == format.name)
                bench.layer(format, std::stoll(shape), std::stoll(shape.substr(shape.find('x') + 1)), std::stoll(rows), std::stoi(threads));
    return 0;
  }
  std::fprintf(stderr, "linear_bench: this processor or build has no '%s'\n", options["isa"].c_str());
  return 1;
}
