// The matrix products of every instruction set against int64 sums and rule 4 as ARCHITECTURE.md writes it: all formats with
// integer levels, rows of 1 to 40, inputs that fill no step or superblock, outputs that fill no block, 1 to 3 threads.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../simd/isa.h"
#include "../simd/pack.h"

using namespace bitshift::simd;

namespace {

int failures = 0, runs = 0;
std::mt19937_64 rng(3);

std::int64_t draw(std::int64_t lo, std::int64_t hi) { return lo + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(hi - lo + 1)); }

// A layer with its parameters, a batch of rows and the right answer.
struct Case {
  std::int64_t in = 0, out = 0, rows = 0;
  bool signed_in = false, extreme = false;
  std::vector<std::uint8_t> codes, x, residual;
  std::vector<std::int32_t> mult, offset32, shift, res_shift, correction;
  std::vector<std::int64_t> offset64, expected;
  std::int64_t in_stride = 0, res_stride = 0, out_stride = 0;
  PackedWeights packed;
  LinearLayer layer;
};

int width(int item) { return item < 0 ? -item : item; }

std::int64_t read(const std::uint8_t *at, int item, std::int64_t i) {
  if (item == 1) return at[i];
  if (item == -1) return reinterpret_cast<const std::int8_t *>(at)[i];
  if (item == 2) return reinterpret_cast<const std::int16_t *>(at)[i];
  return reinterpret_cast<const std::int32_t *>(at)[i];
}

void fill_values(Case &c, const bitshift_format &f) {
  c.codes.resize(static_cast<std::size_t>(c.in * c.out));
  const auto largest = static_cast<std::uint8_t>(std::max_element(f.levels, f.levels + (1 << f.bits)) - f.levels);
  for (auto &code : c.codes) {
    do code = static_cast<std::uint8_t>(draw(0, (1 << f.bits) - 1));
    while (code == f.reserved);
    if (c.extreme) code = largest;
  }
  c.in_stride = c.in + draw(0, 3);
  c.x.resize(static_cast<std::size_t>(c.rows * c.in_stride));
  const std::uint8_t end = c.signed_in ? (draw(0, 1) ? 0x80 : 0x7f) : 0xff;  // 0x7f is the largest byte that kernels add up
  for (auto &q : c.x) q = c.extreme ? end : static_cast<std::uint8_t>(rng());
}

// Rule 4's parameters such that shifted values use the output's whole range, and the answers.
void fill_requant(Case &c, const bitshift_format &f, int out_item, bool narrow, int res_item) {
  Requant &q = c.layer.q;
  const std::int64_t acc_bound = c.in * (c.signed_in ? 128 : 255) * f.max_level;
  const auto padded = static_cast<std::size_t>((c.out + 63) / 64 * 64);
  c.mult.assign(padded, 0), c.offset32.assign(padded, 0), c.shift.assign(padded, 0), c.res_shift.assign(padded, 0);
  c.correction.assign(padded, 0), c.offset64.assign(padded, 0);
  q = Requant{};
  q.narrow = narrow;
  q.unit = narrow || draw(0, 1);
  q.residual = res_item != 0;
  q.res_item = res_item ? res_item : 1;
  q.out_item = out_item;
  const bool signed_out = out_item != 1 || draw(0, 1);
  const std::int64_t top = out_item == 1 ? (signed_out ? 127 : 255) : out_item == 2 ? 32767 : 2147483647;
  q.lo = static_cast<std::int32_t>(draw(0, 1) ? 0 : signed_out ? -top - 1 : 0);
  q.hi = static_cast<std::int32_t>(draw(0, 3) ? top : top / 3);
  const int res_bits = 8 * width(q.res_item);
  c.res_stride = c.out * width(q.res_item) + 4 * draw(0, 2);
  c.residual.resize(static_cast<std::size_t>(c.rows * c.res_stride));
  for (auto &b : c.residual) b = static_cast<std::uint8_t>(rng());
  for (std::int64_t o = 0; o < c.out; ++o) {
    const auto i = static_cast<std::size_t>(o);
    std::int64_t mult = q.unit ? 1 : draw(1, 65535), offset = 0;
    int res_shift = 0;
    if (narrow) {
      // What is left below 2^31 of |acc| goes to the offset and the residual.
      std::int64_t room = (std::int64_t{1} << 31) - 1 - acc_bound * mult;
      if (q.residual) {
        while (res_shift < 12 && (std::int64_t{1} << (res_bits + res_shift + 1)) <= room / 2) ++res_shift;
        room -= std::int64_t{1} << (res_bits + res_shift);
      }
      room = std::min(room, std::max<std::int64_t>(acc_bound, 100));
      offset = room > 0 ? draw(-room, room) : 0;
    } else {
      offset = draw(-acc_bound * mult - 1000, acc_bound * mult + 1000);
      res_shift = static_cast<int>(draw(0, 20));
    }
    int bits = 0;
    while (acc_bound * mult >> bits > top) ++bits;
    const int shift = std::clamp<int>(bits - static_cast<int>(draw(0, 6)), 0, narrow ? 31 : 62);
    std::int64_t sum = 0;
    for (std::int64_t k = 0; k < c.in; ++k) sum += f.levels[c.codes[static_cast<std::size_t>(o * c.in + k)]];
    const auto correction = static_cast<std::int32_t>(static_cast<std::uint32_t>((c.signed_in ? 128 : 0) * sum));
    c.mult[i] = static_cast<std::int32_t>(mult);
    c.shift[i] = shift;
    c.res_shift[i] = res_shift;
    c.correction[i] = correction;
    c.offset64[i] = offset;
    c.offset32[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(offset) - static_cast<std::uint32_t>(correction) * static_cast<std::uint32_t>(mult));
  }
  q.mult = c.mult.data(), q.offset32 = c.offset32.data(), q.shift = c.shift.data(), q.res_shift = c.res_shift.data();
  q.correction = c.correction.data(), q.offset64 = c.offset64.data();

  c.expected.resize(static_cast<std::size_t>(c.rows * c.out));
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::uint8_t *x = c.x.data() + r * c.in_stride;
    for (std::int64_t o = 0; o < c.out; ++o) {
      const auto i = static_cast<std::size_t>(o);
      std::int64_t acc = 0;
      for (std::int64_t k = 0; k < c.in; ++k)
        acc += read(x, c.signed_in ? -1 : 1, k) * f.levels[c.codes[static_cast<std::size_t>(o * c.in + k)]];
      std::int64_t v = acc * c.mult[i] + c.offset64[i];
      if (q.residual) v += read(c.residual.data() + r * c.res_stride, q.res_item, o) * (std::int64_t{1} << c.res_shift[i]);
      c.expected[static_cast<std::size_t>(r * c.out + o)] = std::clamp<std::int64_t>(v >> c.shift[i], q.lo, q.hi);
    }
  }
}

void check(Case &c, const LinearKernel &kernel, const char *isa, int threads) {
  if (!kernel.can(c.layer, c.rows)) return;
  ++runs;
  const int item = c.layer.q.out_item;
  c.out_stride = c.out * item + 4 * draw(0, 2);
  // An output row must be written whole and nothing else: what lies between rows keeps its mark.
  std::vector<std::uint8_t> out(static_cast<std::size_t>(c.rows * c.out_stride), 0xa5);
  AlignedBytes scratch(kernel.scratch(c.layer, c.rows, threads));
  std::memset(scratch.data(), 0xee, scratch.size());
  Task task;
  task.in = c.x.data(), task.residual = c.layer.q.residual ? c.residual.data() : nullptr, task.out = out.data();
  task.in_stride = c.in_stride, task.res_stride = c.res_stride, task.out_stride = c.out_stride;
  task.samples = c.rows, task.scratch = scratch.data(), task.threads = threads;
  for (int phase = 0; phase < kernel.phases; ++phase)
    for (task.thread = 0; task.thread < threads; ++task.thread) kernel.run(c.layer, task, phase);
  for (std::int64_t r = 0; r < c.rows; ++r) {
    const std::uint8_t *row = out.data() + r * c.out_stride;
    for (std::int64_t o = 0; o < c.out; ++o) {
      std::int64_t expected = c.expected[static_cast<std::size_t>(r * c.out + o)], got = read(row, item, o);
      if (item == 1) expected &= 255;
      if (got == expected) continue;
      std::printf("FAILED %s %s %s in=%lld out=%lld rows=%lld signed=%d narrow=%d residual=%d item=%d threads=%d: row %lld output %lld: %lld, expected %lld\n",
                  isa, kernel.name, c.layer.w.format->name, static_cast<long long>(c.in), static_cast<long long>(c.out),
                  static_cast<long long>(c.rows), c.signed_in, c.layer.q.narrow, c.layer.q.residual ? c.layer.q.res_item : 0, item,
                  threads, static_cast<long long>(r), static_cast<long long>(o), static_cast<long long>(got), static_cast<long long>(expected));
      ++failures;
      return;
    }
    for (std::int64_t b = c.out * item; b < c.out_stride; ++b) {
      if (row[b] != 0xa5) {
        std::printf("FAILED %s %s writes behind a row of %lld outputs\n", isa, kernel.name, static_cast<long long>(c.out));
        ++failures;
        return;
      }
    }
  }
}

void layers_equal_the_definition(const Isa &isa, const bitshift_format &f, int cases) {
  const std::int64_t largest_in = std::min<std::int64_t>(2147483647 / 255 / f.max_level, 2100);
  for (int n = 0; n < cases; ++n) {
    Case c;
    c.signed_in = draw(0, 1);
    c.extreme = n % 8 == 7;
    // Every fourth layer is as deep as int32 allows (or as several decoded panels); the others are small and of odd sizes.
    c.in = n % 4 == 3 ? largest_in - draw(0, std::min<std::int64_t>(37, largest_in - 1)) : draw(1, std::min<std::int64_t>(largest_in, 140));
    c.out = draw(1, 70);
    c.rows = n % 3 == 0 ? 1 : n % 3 == 1 ? draw(2, 8) : draw(8, 40);
    fill_values(c, f);
    c.packed = pack_linear(c.in, c.out, f, isa.limit, [&](std::int64_t o) { return c.codes.data() + o * c.in; });
    c.layer.in = c.in, c.layer.out = c.out, c.layer.signed_in = c.signed_in, c.layer.w = c.packed.w;
    const std::int64_t acc_bound = c.in * (c.signed_in ? 128 : 255) * f.max_level;
    const int res_items[] = {0, 1, -1, 2, 4};
    const int res_item = res_items[draw(0, 4)];
    // A residual of 32 bits beside a sum never fits 32 bits here; see fill_requant for what is left of them.
    const bool fits = acc_bound < (std::int64_t{1} << 30) && res_item != 4;
    fill_requant(c, f, draw(0, 2) == 0 ? 4 : draw(0, 3) ? 1 : 2, fits && draw(0, 2), res_item);
    for (const LinearKernel *kernel : isa.linear) check(c, *kernel, isa.name, static_cast<int>(draw(1, 3)));
  }
}

}  // namespace

int main(int argc, char **argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 40;
  for (const Isa &isa : isas())
    for (const bitshift_format &f : bitshift_formats)
      if (f.levels) layers_equal_the_definition(isa, f, cases);
  std::printf("%d layers, %d failures\n", runs, failures);
  return failures != 0;
}
