// Time of every convolution kernel of every instruction set on the layers of well-known networks, one thread, batch as given.
// Each layer's kernels run in turn, round after round; the figure is the round that one in eight is faster than, in the thread's
// own time, so that other work on the machine shows little. The dot-product peak is measured on the same processor, by the wall
// clock. The last line of a network adds up its layers, each with its best kernel for activations of 8, 7 and 6 bits.
//
//   conv_bench [net] [samples] [rounds] [isa]     net: resnet18 resnet50 mobilenet_v2 resnet20 all
#include <algorithm>
#include <chrono>
#include <ctime>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "../simd/isa.h"
#include "../src/probe.h"
#include "../tests/conv_case.h"

using namespace bitshift::simd;
using namespace bitshift::simd::testing;

namespace {

struct Shape {
  int in_c, out_c, kernel, stride, size, count;  // size: of the input; padding keeps it
  bool residual;
};

const std::map<std::string, std::vector<Shape>> nets = {
    {"resnet18", {{3, 64, 7, 2, 224, 1, false}, {64, 64, 3, 1, 56, 2, false}, {64, 64, 3, 1, 56, 2, true}, {64, 128, 3, 2, 56, 1, false},
                  {64, 128, 1, 2, 56, 1, false}, {128, 128, 3, 1, 28, 3, true}, {128, 256, 3, 2, 28, 1, false}, {128, 256, 1, 2, 28, 1, false},
                  {256, 256, 3, 1, 14, 3, true}, {256, 512, 3, 2, 14, 1, false}, {256, 512, 1, 2, 14, 1, false}, {512, 512, 3, 1, 7, 3, true}}},
    {"resnet50", {{64, 64, 1, 1, 56, 1, false}, {256, 64, 1, 1, 56, 2, false}, {64, 256, 1, 1, 56, 4, true}, {256, 128, 1, 1, 56, 1, false},
                  {128, 128, 3, 2, 56, 1, false}, {256, 512, 1, 2, 56, 1, false}, {512, 128, 1, 1, 28, 3, false}, {128, 512, 1, 1, 28, 4, true},
                  {512, 256, 1, 1, 28, 1, false}, {256, 256, 3, 2, 28, 1, false}, {512, 1024, 1, 2, 28, 1, false}, {1024, 256, 1, 1, 14, 5, false},
                  {256, 1024, 1, 1, 14, 6, true}, {1024, 512, 1, 1, 14, 1, false}, {512, 512, 3, 2, 14, 1, false}, {1024, 2048, 1, 2, 14, 1, false},
                  {2048, 512, 1, 1, 7, 2, false}, {512, 2048, 1, 1, 7, 3, true}}},
    {"mobilenet_v2", {{3, 32, 3, 2, 224, 1, false}, {32, 16, 1, 1, 112, 1, false}, {16, 96, 1, 1, 112, 1, false}, {96, 24, 1, 1, 56, 1, false},
                      {24, 144, 1, 1, 56, 2, false}, {144, 24, 1, 1, 56, 1, true}, {144, 32, 1, 1, 28, 1, false}, {32, 192, 1, 1, 28, 3, false},
                      {192, 32, 1, 1, 28, 2, true}, {192, 64, 1, 1, 14, 1, false}, {64, 384, 1, 1, 14, 4, false}, {384, 64, 1, 1, 14, 3, true},
                      {384, 96, 1, 1, 14, 1, false}, {96, 576, 1, 1, 14, 3, false}, {576, 96, 1, 1, 14, 2, true}, {576, 160, 1, 1, 7, 1, false},
                      {160, 960, 1, 1, 7, 3, false}, {960, 160, 1, 1, 7, 2, true}, {960, 320, 1, 1, 7, 1, false}, {320, 1280, 1, 1, 7, 1, false}}},
    {"resnet20", {{3, 16, 3, 1, 32, 1, false}, {16, 16, 3, 1, 32, 6, true}, {16, 32, 3, 2, 32, 1, false}, {32, 32, 3, 1, 16, 5, true},
                  {32, 64, 3, 2, 16, 1, false}, {64, 64, 3, 1, 8, 5, true}}},
};

// The thread's own time where there is such a clock: another process on the processor then costs cache contents only.
double now() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

struct Timed {
  const ConvKernel *kernel;
  int bits;  // of the input
  const ConvCase *c;
  AlignedBytes scratch, in, res, out;
  std::vector<double> seconds;

  Timed(const ConvKernel *k, int b, const ConvCase &each) : kernel(k), bits(b), c(&each) {
    scratch = AlignedBytes(k->scratch(each.layer, each.samples, 1));
    out = AlignedBytes(static_cast<std::size_t>(each.layer.out.bytes() * each.samples));
    in = AlignedBytes(each.in.size());
    std::memcpy(in.data(), each.in.data(), each.in.size());
    res = AlignedBytes(each.residual.size());
    std::copy(each.residual.begin(), each.residual.end(), res.data());
  }
  void run() const {
    Task t;
    t.in = in.data(), t.residual = c->residual.empty() ? nullptr : res.data(), t.out = out.data();
    t.in_stride = c->layer.in.bytes(), t.res_stride = c->layer.res.bytes(), t.out_stride = c->layer.out.bytes();
    t.samples = c->samples, t.scratch = scratch.data();
    for (int phase = 0; phase < kernel->phases; ++phase) kernel->run(c->layer, t, phase);
  }
  double typical() const {
    std::vector<double> s = seconds;
    std::sort(s.begin(), s.end());
    return s[s.size() / 8];
  }
};

}  // namespace

int main(int argc, char **argv) {
  const std::string net = argc > 1 ? argv[1] : "resnet18", only = argc > 4 ? argv[4] : "";
  const int samples = argc > 2 ? std::atoi(argv[2]) : 1, rounds = argc > 3 ? std::atoi(argv[3]) : 40;
  for (const Isa &isa : isas()) {
    if (!only.empty() && only != isa.name) continue;
    const double peak = bitshift::probe_dot(isa.name, 1, 0.3);
    for (const auto &[name, shapes] : nets) {
      if (net != "all" && net != name) continue;
      std::printf("%s %s, batch %d: dot-product peak %.0f GOP/s\n", isa.name, name.c_str(), samples, peak / 1e9);
      std::map<int, double> sums;  // by bits of the activations: the best kernel that serves there
      double ideal = 0;
      for (const Shape &s : shapes) {
        const bsk_conv g = conv_shape(s.in_c, s.size, s.size, s.out_c, s.kernel, s.kernel, s.stride, s.stride, s.kernel / 2, s.kernel / 2);
        Rng rng(1);
        std::vector<ConvCase> cases;
        cases.reserve(3);
        std::vector<Timed> runs;
        for (const int bits : {8, 7, 6}) {
          Ranges r;
          r.in_hi = (1 << bits) - 1;
          r.res_item = s.residual ? 1 : 0;
          cases.emplace_back(g, bitshift_formats[BITSHIFT_FORMAT_POT3D], r, samples, rng, isa.limit, false);
          for (const ConvKernel *k : isa.conv) {
            bool seen = false;  // a kernel is timed once, at the most bits that it takes
            for (const Timed &t : runs) seen |= t.kernel == k;
            if (!seen && k->can(cases.back().layer)) runs.emplace_back(k, bits, cases.back());
          }
        }
        for (auto &t : runs) t.run();
        for (int i = 0; i < rounds; ++i)
          for (auto &t : runs) {
            int times = 0;
            const double start = now();
            double end = start;
            while (end - start < 0.5e-3 || times == 0) t.run(), ++times, end = now();
            t.seconds.push_back((end - start) / times);
          }
        const double ops = 2.0 * static_cast<double>(samples * g.out_h * g.out_w * g.out_c * g.kernel_h * g.kernel_w) * static_cast<double>(g.in_c);
        ideal += s.count * ops / peak;
        std::printf("%4d-%-4d %dx%d/%d @%-3d%s x%d", s.in_c, s.out_c, s.kernel, s.kernel, s.stride, s.size, s.residual ? "+" : " ", s.count);
        for (const Timed &t : runs)
          std::printf(" | %s %.1f us %.0f GOP/s %.1f%%", t.kernel->name, t.typical() * 1e6, ops / t.typical() / 1e9, 100 * ops / t.typical() / peak);
        std::printf("\n");
        for (const int bits : {8, 7, 6}) {
          double best = 1e9;
          for (const Timed &t : runs)
            if (t.bits >= bits) best = std::min(best, t.typical());
          sums[bits] += s.count * best;
        }
      }
      std::printf("sum of the layers: 8-bit %.3f ms, 7-bit %.3f ms, 6-bit %.3f ms; direct at the peak %.3f ms\n\n", sums[8] * 1e3,
                  sums[7] * 1e3, sums[6] * 1e3, ideal * 1e3);
      std::fflush(stdout);
    }
  }
  return 0;
}
