// The float products of every instruction set against sums in double, within the bound that follows from the number of terms;
// and the exponent addition against the multiplier, bit for bit, for every exponent of a float and every level.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../simd/expadd.h"
#include "../simd/isa.h"
#include "../simd/pack.h"

using namespace bitshift::simd;

namespace {

int failures = 0, runs = 0;
std::mt19937_64 rng(5);

std::int64_t draw(std::int64_t lo, std::int64_t hi) { return lo + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(hi - lo + 1)); }

float real(double spread) {
  const double unit = static_cast<double>(rng() % 2000001) / 1e6 - 1;
  return static_cast<float>(unit * std::exp2(spread * (static_cast<double>(rng() % 1001) / 500 - 1)));
}

float from_bits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
std::uint32_t to_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// A product as IEEE says, not optimised away.
float multiply(float x, float level) {
  volatile float a = x, b = level;
  return a * b;
}

void exponent_add_is_the_product_for_every_exponent() {
  std::vector<std::uint32_t> mantissas{0, 1, 2, 3, 0x3fffff, 0x400000, 0x400001, 0x7ffffe, 0x7fffff};
  for (int i = 0; i < 40; ++i) mantissas.push_back(static_cast<std::uint32_t>(draw(0, 0x7fffff)) >> draw(0, 22));
  for (const bitshift_format &f : bitshift_formats) {
    for (int c = 0; c < 1 << f.bits; ++c) {
      const float level = f.levels_f32[c];
      const PowerOfTwo power(to_bits(level));
      if (!power.valid) continue;
      for (std::uint32_t sign = 0; sign < 2; ++sign) {
        for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
          for (const std::uint32_t mantissa : mantissas) {
            const std::uint32_t x = sign << 31 | exponent << 23 | mantissa, got = exponent_add(x, power);
            const float expected = multiply(from_bits(x), level);
            const bool same = std::isnan(expected) ? std::isnan(from_bits(got)) : got == to_bits(expected);
            const bool sum = !plain(x, power.exponent) || power.zero ||
                             x + (static_cast<std::uint32_t>(power.exponent) << 23) + (power.negative ? kSignBit : 0) == got;
            if (same && sum) continue;
            if (++failures < 10) std::printf("FAILED exponent_add: %08x * %g gives %08x, not %08x\n", x, static_cast<double>(level), got, to_bits(expected));
          }
        }
      }
    }
  }
}

struct Case {
  FloatLayer layer;
  PackedWeights packed;
  std::vector<std::uint8_t> codes;  // (out_c, in_c / groups, kernel_h, kernel_w)
  std::vector<float> x, scale, bias;
  std::vector<double> sums, absolute;  // of each output: the sum, and the sum of magnitudes
  std::int64_t rows = 1, in_size = 0, out_size = 0, in_stride = 0, out_stride = 0, terms = 0;
};

void fill(Case &c, const Isa &isa, const bitshift_format &f) {
  bsk_conv &g = c.layer.g;
  const std::int64_t channels = g.in_c / g.groups, taps = c.layer.linear ? 1 : g.kernel_h * g.kernel_w;
  c.terms = channels * taps;
  c.codes.resize(static_cast<std::size_t>(g.out_c * c.terms));
  for (auto &code : c.codes) {
    do code = static_cast<std::uint8_t>(draw(0, (1 << f.bits) - 1));
    while (code == f.reserved);
  }
  const auto row = [&](std::int64_t o) { return c.codes.data() + o * c.terms; };
  c.packed = c.layer.linear ? pack_linear(g.in_c, g.out_c, f, isa.limit, row) : pack_conv(g, f, isa.limit, row);
  c.layer.w = c.packed.w;
  c.layer.levels = f.levels_f32;
  const auto padded = static_cast<std::size_t>((g.out_c + 63) / 64 * 64);
  c.scale.assign(padded, 0), c.bias.assign(padded, 0);
  for (std::int64_t o = 0; o < g.out_c; ++o) {
    c.scale[static_cast<std::size_t>(o)] = std::fabs(real(3)) + 1e-3f;
    c.bias[static_cast<std::size_t>(o)] = real(3);
  }
  c.layer.scale = c.scale.data(), c.layer.bias = c.bias.data();
  c.in_size = c.layer.linear ? g.in_c : g.in_c * g.in_h * g.in_w;
  c.out_size = c.layer.linear ? g.out_c : g.out_c * g.out_h * g.out_w;
  c.in_stride = c.in_size + draw(0, 2);
  c.x.resize(static_cast<std::size_t>((c.rows - 1) * c.in_stride + c.in_size));
  for (auto &v : c.x) v = draw(0, 5) ? real(8) : 0.0f;
}

void linear_case(Case &c, const Isa &isa, const bitshift_format &f, int n) {
  c.layer.linear = true;
  c.layer.g.in_c = n % 5 == 4 ? draw(1000, 1500) : draw(1, 130);
  c.layer.g.out_c = draw(1, 70);
  c.layer.g.groups = 1;
  c.rows = n % 2 ? draw(1, 8) : draw(1, 40);
  fill(c, isa, f);
}

void conv_case(Case &c, const Isa &isa, const bitshift_format &f, int n) {
  bsk_conv &g = c.layer.g;
  const bool flat = n % 5 == 0;  // 1-d
  g.groups = draw(0, 3) ? 1 : draw(2, 3);
  g.in_c = g.groups * draw(1, 12);
  g.out_c = g.groups * draw(1, 22);
  g.kernel_h = flat ? 1 : draw(1, 4), g.kernel_w = draw(1, 4);
  g.stride_h = flat ? 1 : draw(1, 2), g.stride_w = draw(1, 2);
  g.dilation_h = flat ? 1 : draw(1, 2), g.dilation_w = draw(1, 2);
  g.pad_top = flat ? 0 : draw(0, g.kernel_h - 1), g.pad_left = draw(0, g.kernel_w - 1);
  g.in_h = flat ? 1 : draw(1, 9) + g.dilation_h * (g.kernel_h - 1), g.in_w = draw(1, 20) + g.dilation_w * (g.kernel_w - 1);
  g.out_h = (g.in_h + g.pad_top - g.dilation_h * (g.kernel_h - 1) - 1) / g.stride_h + 1;
  g.out_w = (g.in_w + g.pad_left - g.dilation_w * (g.kernel_w - 1) - 1) / g.stride_w + 1;
  c.rows = draw(1, 3);
  fill(c, isa, f);
}

// The definition: one output's sum in double.
void reference(Case &c) {
  const bsk_conv &g = c.layer.g;
  c.sums.assign(static_cast<std::size_t>(c.rows * c.out_size), 0);
  c.absolute = c.sums;
  const auto add = [&](std::size_t at, float x, std::uint8_t code) {
    const double product = static_cast<double>(x) * static_cast<double>(c.layer.levels[code]);
    c.sums[at] += product;
    c.absolute[at] += std::fabs(product);
  };
  for (std::int64_t s = 0; s < c.rows; ++s) {
    const float *x = c.x.data() + s * c.in_stride;
    for (std::int64_t o = 0; o < g.out_c; ++o) {
      const std::uint8_t *codes = c.codes.data() + o * c.terms;
      if (c.layer.linear) {
        for (std::int64_t k = 0; k < g.in_c; ++k) add(static_cast<std::size_t>(s * c.out_size + o), x[k], codes[k]);
        continue;
      }
      const std::int64_t channels = g.in_c / g.groups, first = o / (g.out_c / g.groups) * channels;
      for (std::int64_t p = 0; p < g.out_h * g.out_w; ++p)
        for (std::int64_t k = 0; k < c.terms; ++k) {
          const std::int64_t kw = k % g.kernel_w, kh = k / g.kernel_w % g.kernel_h, i = k / g.kernel_w / g.kernel_h;
          const std::int64_t h = p / g.out_w * g.stride_h - g.pad_top + kh * g.dilation_h, w = p % g.out_w * g.stride_w - g.pad_left + kw * g.dilation_w;
          if (h < 0 || h >= g.in_h || w < 0 || w >= g.in_w) continue;
          add(static_cast<std::size_t>(s * c.out_size + o * g.out_h * g.out_w + p), x[((first + i) * g.in_h + h) * g.in_w + w], codes[k]);
        }
    }
  }
}

std::vector<float> run(Case &c, const FloatKernel &kernel, int threads) {
  ++runs;
  c.out_stride = c.out_size + draw(0, 2);
  std::vector<float> out(static_cast<std::size_t>((c.rows - 1) * c.out_stride + c.out_size), -77.0f);
  AlignedBytes scratch(kernel.scratch(c.layer, c.rows, threads));
  std::memset(scratch.data(), 0xee, scratch.size());
  Task task;
  task.in = reinterpret_cast<const std::uint8_t *>(c.x.data()), task.out = reinterpret_cast<std::uint8_t *>(out.data());
  task.in_stride = c.in_stride * 4, task.out_stride = c.out_stride * 4;
  task.samples = c.rows, task.scratch = scratch.data(), task.threads = threads;
  for (int phase = 0; phase < kernel.phases; ++phase)
    for (task.thread = 0; task.thread < threads; ++task.thread) kernel.run(c.layer, task, phase);
  return out;
}

void describe(const Case &c, const char *isa, const FloatKernel &kernel, int threads) {
  const bsk_conv &g = c.layer.g;
  std::printf("FAILED %s %s %s rows=%lld in_c=%lld out_c=%lld groups=%lld kernel=%lldx%lld in=%lldx%lld threads=%d: ", isa, kernel.name,
              c.layer.w.format->name, static_cast<long long>(c.rows), static_cast<long long>(g.in_c), static_cast<long long>(g.out_c),
              static_cast<long long>(g.groups), static_cast<long long>(g.kernel_h), static_cast<long long>(g.kernel_w),
              static_cast<long long>(g.in_h), static_cast<long long>(g.in_w), threads);
  ++failures;
}

// Every order of a float32 sum of n terms is within n * 2^-24 / (1 - n * 2^-24) of the sum of magnitudes; scale and bias round twice.
void check(Case &c, const Isa &isa) {
  reference(c);
  const double unit = std::exp2(-24), gamma = static_cast<double>(c.terms + 4) * unit / (1 - static_cast<double>(c.terms + 4) * unit);
  const std::int64_t plane = c.layer.linear ? 1 : c.out_size / c.layer.g.out_c;
  for (const FloatKernel *kernel : isa.floats) {
    if (!kernel->can(c.layer, c.rows)) continue;
    const int threads = static_cast<int>(draw(1, 3));
    const std::vector<float> out = run(c, *kernel, threads);
    for (std::int64_t i = 0; i < c.rows * c.out_size; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto o = static_cast<std::size_t>(i % c.out_size / plane);
      const double scale = static_cast<double>(c.scale[o]), bias = static_cast<double>(c.bias[o]);
      const double expected = c.sums[at] * scale + bias, got = static_cast<double>(out[static_cast<std::size_t>(i / c.out_size * c.out_stride + i % c.out_size)]);
      const double tolerance = gamma * c.absolute[at] * scale + 3 * unit * (std::fabs(c.sums[at]) * scale + std::fabs(bias)) + 1e-44;
      if (std::fabs(got - expected) <= tolerance) continue;
      describe(c, isa.name, *kernel, threads);
      std::printf("output %lld: %.9g, expected %.9g +- %.2g\n", static_cast<long long>(i), got, expected, tolerance);
      break;
    }
    for (std::int64_t r = 0; r + 1 < c.rows; ++r)
      for (std::int64_t i = c.out_size; i < c.out_stride; ++i)
        if (out[static_cast<std::size_t>(r * c.out_stride + i)] != -77.0f) {
          describe(c, isa.name, *kernel, threads);
          std::printf("writes between rows\n");
          return;
        }
  }
}

// One input of any bits, or a few beside zeros: a sum without rounding, so products must be those of the multiplier bit for bit
// (a sum of zeros is +0 whatever their signs).
void special_values_multiply_exactly(const Isa &isa, const bitshift_format &f) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int n = 0; n < 60; ++n) {
    Case c;
    linear_case(c, isa, f, 1);
    std::fill(c.scale.begin(), c.scale.end(), 1.0f);
    std::fill(c.bias.begin(), c.bias.end(), 0.0f);
    std::vector<std::int64_t> at;
    for (std::int64_t r = 0; r < c.rows; ++r) {
      float *x = c.x.data() + r * c.in_stride;
      for (std::int64_t k = 0; k < c.layer.g.in_c; ++k) x[k] = draw(0, 1) ? 0.0f : -0.0f;
      at.push_back(draw(0, c.layer.g.in_c - 1));
      const float values[] = {infinity, -infinity, std::nanf(""), from_bits(static_cast<std::uint32_t>(rng()) & 0x807fffffu),
                              from_bits(0x7f000000u | (static_cast<std::uint32_t>(rng()) & 0x80ffffffu)), from_bits(static_cast<std::uint32_t>(rng()))};
      x[at.back()] = values[draw(0, 5)];
    }
    for (const FloatKernel *kernel : isa.floats) {
      if (!kernel->can(c.layer, c.rows)) continue;
      const std::vector<float> out = run(c, *kernel, 2);
      for (std::int64_t i = 0; i < c.rows * c.out_size; ++i) {
        const std::int64_t r = i / c.out_size, o = i % c.out_size;
        const float x = c.x[static_cast<std::size_t>(r * c.in_stride + at[static_cast<std::size_t>(r)])];
        const float expected = multiply(x, f.levels_f32[c.codes[static_cast<std::size_t>(o * c.terms + at[static_cast<std::size_t>(r)])]]);
        const float got = out[static_cast<std::size_t>(r * c.out_stride + o)];
        if (std::isnan(expected) ? std::isnan(got) : got == expected) continue;
        describe(c, isa.name, *kernel, 2);
        std::printf("%.9g (%08x) gives %.9g, not %.9g\n", static_cast<double>(x), to_bits(x), static_cast<double>(got), static_cast<double>(expected));
        break;
      }
    }
  }
}

}  // namespace

int main(int argc, char **argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 30;
  exponent_add_is_the_product_for_every_exponent();
  for (const Isa &isa : isas()) {
    for (const bitshift_format &f : bitshift_formats) {
      for (int n = 0; n < cases; ++n) {
        Case linear, conv;
        linear_case(linear, isa, f, n);
        check(linear, isa);
        conv_case(conv, isa, f, n);
        check(conv, isa);
      }
      special_values_multiply_exactly(isa, f);
    }
  }
  std::printf("%d products, %d failures\n", runs, failures);
  return failures != 0;
}
