// Depthwise convolution of every instruction set of this machine against the portable kernel on planar values: every format with
// integer levels, any kernel, stride, dilation, padding and multiplier, all of rule 4, extremes, samples and threads.
#include "../simd/pack.h"
#include "maps.h"

namespace {

// A random layer with everything a kernel reads, and its operands.
struct Case {
  bsk_conv g{};
  const bitshift_format *format;
  Value in, out, res;
  bool residual;
  Bytes codes, x, r;
  std::vector<std::int32_t> levels, mult, offset32, shift, res_shift, correction;
  std::vector<std::int64_t> offset;       // of rule 4
  std::vector<std::int64_t> offset64;     // as kernels want it
  std::vector<std::uint8_t> shift8, res_shift8;
  std::int32_t lo, hi;
  bool narrow, unit;
};

void draw_geometry(Case &c) {
  bsk_conv &g = c.g;
  const std::int64_t style = draw(0, 5);  // 0..2: what networks hold
  g.in_c = draw(0, 2) ? 16 * draw(1, 9) : draw(2, 90);
  const std::int64_t each = draw(0, 3) ? 1 : draw(2, 5);
  g.groups = g.in_c;
  g.out_c = g.in_c * each;
  const bool flat = draw(0, 7) == 0;
  g.kernel_h = flat ? 1 : style < 3 ? 3 + 2 * (style == 2) : draw(1, 9);
  g.kernel_w = style < 3 ? g.kernel_h : draw(1, 9);
  if (flat) g.kernel_w = draw(1, 20);
  g.stride_h = flat ? 1 : style < 3 ? draw(1, 2) : draw(1, 4);
  g.stride_w = style < 3 ? g.stride_h : draw(1, 4);
  g.dilation_h = flat || style < 3 ? 1 : draw(1, 3);
  g.dilation_w = style < 3 ? 1 : draw(1, 3);
  g.pad_top = flat ? 0 : draw(0, g.kernel_h / 2 + 1);
  g.pad_left = draw(0, g.kernel_w / 2 + 1);
  const std::int64_t span_h = (g.kernel_h - 1) * g.dilation_h + 1, span_w = (g.kernel_w - 1) * g.dilation_w + 1;
  g.in_h = flat ? 1 : std::max<std::int64_t>(draw(1, 15), span_h - 2 * g.pad_top);
  g.in_w = std::max<std::int64_t>(draw(1, 24), span_w - 2 * g.pad_left);
  g.out_h = (g.in_h + g.pad_top + (flat ? 0 : draw(0, g.pad_top)) - span_h);
  g.out_h = g.out_h < 0 ? 1 : g.out_h / g.stride_h + 1;
  g.out_w = (g.in_w + g.pad_left + draw(0, g.pad_left) - span_w);
  g.out_w = g.out_w < 0 ? 1 : g.out_w / g.stride_w + 1;
}

Case draw_case() {
  Case c;
  draw_geometry(c);
  do c.format = &bitshift_formats[draw(0, BITSHIFT_FORMAT_COUNT - 1)]; while (!c.format->levels);
  const bsk_conv &g = c.g;
  const std::int64_t samples = draw(1, 3), taps = g.kernel_h * g.kernel_w;
  c.in = value(draw(0, 1) ? BSK_I8 : BSK_U8, g.in_c, g.in_h, g.in_w, samples);
  c.out = value(static_cast<bsk_dtype>(draw(0, 2) ? draw(0, 1) : draw(0, 3)), g.out_c, g.out_h, g.out_w, samples);
  c.res = value(static_cast<bsk_dtype>(draw(0, 2) ? draw(0, 1) : draw(0, 3)), g.out_c, g.out_h, g.out_w, samples);
  // The border that the windows need, and perhaps more.
  const std::int64_t below = (g.out_h - 1) * g.stride_h - g.pad_top + (g.kernel_h - 1) * g.dilation_h - (g.in_h - 1);
  const std::int64_t right = (g.out_w - 1) * g.stride_w - g.pad_left + (g.kernel_w - 1) * g.dilation_w - (g.in_w - 1);
  c.in.map.border_h = std::max({g.pad_top, below, std::int64_t{0}}) + (g.in_h > 1 ? draw(0, 1) : 0);
  c.in.map.border_w = std::max({g.pad_left, right, std::int64_t{0}}) + draw(0, 1);
  if (c.res.type == BSK_I8 && draw(0, 1)) c.res.map.zero = 0;  // a signed byte as it is
  c.residual = draw(0, 2) == 0;
  c.codes.resize(static_cast<std::size_t>(g.out_c * taps));
  c.levels.resize(c.codes.size());
  const bool uniform = draw(0, 4) == 0;  // the largest sums
  const int one = static_cast<int>(draw(0, 1)) << (c.format->bits - 1);
  for (std::size_t i = 0; i < c.codes.size(); i++) {
    do c.codes[i] = static_cast<std::uint8_t>(uniform ? one + (1 << (c.format->bits - 1)) - 1 : draw(0, (1 << c.format->bits) - 1));
    while (!uniform && c.codes[i] == c.format->reserved);
    c.levels[i] = c.format->levels[c.codes[i]];
  }
  c.x = random_planar(c.in, 255);
  c.r = random_planar(c.res, 1000);
  // narrow: the whole sum before the shift must stay under 2^31.
  const std::int64_t acc = taps * 255 * c.format->max_level;
  c.unit = draw(0, 1) == 0;
  const std::int64_t most = c.unit ? 1 : std::min<std::int64_t>(65535, ((std::int64_t{1} << 30) - 1) / acc);
  c.narrow = most > 0 && acc < (std::int64_t{1} << 30) && draw(0, 3) != 0;
  for (std::int64_t o = 0; o < g.out_c; o++) {
    c.mult.push_back(c.unit ? 1 : static_cast<std::int32_t>(draw(1, c.narrow ? most : 65535)));
    c.shift8.push_back(static_cast<std::uint8_t>(draw(0, 3) ? draw(0, 16) : draw(0, c.narrow ? 31 : 62)));
    c.res_shift8.push_back(static_cast<std::uint8_t>(draw(0, c.narrow ? 12 : 30)));
    c.offset.push_back(c.narrow ? draw(-(1 << 28), 1 << 28) : draw(-(1 << 30), 1 << 30) * draw(0, 1 << 20));
  }
  c.lo = static_cast<std::int32_t>(draw(0, 1) ? c.out.lo() : std::max<std::int64_t>(c.out.lo(), -9));
  c.hi = static_cast<std::int32_t>(draw(0, 1) ? c.out.hi() : 77);
  return c;
}

// What fold_requant of src/requant.cpp promises of Requant, by the words of common.h.
Requant fold(Case &c, const std::vector<std::int64_t> &sums) {
  const std::size_t padded = static_cast<std::size_t>((c.g.out_c + 63) / 64 * 64);
  for (auto *v : {&c.offset32, &c.shift, &c.res_shift, &c.correction, &c.mult}) v->resize(padded, 0);
  c.offset64.assign(padded, 0);
  const std::int64_t res_zero = c.residual ? c.res.map.zero : 0;
  for (std::size_t o = 0; o < static_cast<std::size_t>(c.g.out_c); o++) {
    const std::int64_t correction = sums[o] * c.in.map.zero;
    const std::int64_t offset = c.offset[o] - res_zero * (std::int64_t{1} << c.res_shift8[o]);
    c.shift[o] = c.shift8[o];
    c.res_shift[o] = c.res_shift8[o];
    c.correction[o] = static_cast<std::int32_t>(correction);
    c.offset32[o] = static_cast<std::int32_t>(static_cast<std::uint32_t>(offset - correction * c.mult[o]));
    c.offset64[o] = offset;
  }
  Requant q;
  q.mult = c.mult.data();
  q.offset32 = c.offset32.data();
  q.offset64 = c.offset64.data();
  q.shift = c.shift.data();
  q.res_shift = c.res_shift.data();
  q.correction = c.correction.data();
  q.narrow = c.narrow;
  q.unit = c.unit;
  q.residual = c.residual;
  q.res_item = c.res.type == BSK_I8 && c.res.map.zero == 0 ? -1 : c.res.map.item;
  q.out_item = c.out.map.item;
  q.out_zero = c.out.map.zero;
  q.lo = c.lo;
  q.hi = c.hi;
  return q;
}

Bytes reference(const Case &c) {
  bsk_requant q{};
  q.mult = c.mult.data();
  q.offset = c.offset.data();
  q.shift = c.shift8.data();
  q.res_shift = c.residual ? c.res_shift8.data() : nullptr;
  q.lo = c.lo;
  q.hi = c.hi;
  q.narrow = 0;
  Bytes y(static_cast<std::size_t>(c.out.planar_bytes() * c.out.samples)), scratch(bsk_conv_scratch(&c.g, BSK_DOT_I32) + 64);
  for (std::int64_t s = 0; s < c.in.samples; s++)
    bsk_conv_int(&c.g, BSK_DOT_I32, c.x.data() + s * c.in.planar_bytes(), c.in.type, c.levels.data(), &q,
                 c.residual ? c.r.data() + s * c.res.planar_bytes() : nullptr, c.res.type, y.data() + s * c.out.planar_bytes(), c.out.type,
                 scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64);
  return y;
}

void check(const Isa &isa, const ConvKernel &kernel, int rounds) {
  int taken = 0;
  for (int round = 0; round < rounds && failures < 5; round++) {
    Case c = draw_case();
    const std::int64_t taps = c.g.kernel_h * c.g.kernel_w;
    const PackedWeights packed = pack_conv(c.g, *c.format, isa.limit, [&](std::int64_t o) { return c.codes.data() + o * taps; });
    ConvLayer layer;
    layer.g = c.g;
    layer.in = c.in.map;
    layer.out = c.out.map;
    layer.res = c.res.map;
    layer.w = packed.w;
    layer.q = fold(c, packed.level_sums);
    layer.in_lo = static_cast<std::int32_t>(c.in.lo());
    layer.in_hi = static_cast<std::int32_t>(c.in.hi());
    // The bound of the loader: per output, from its codes and the input's range.
    for (std::int64_t o = 0; o < c.g.out_c; o++) {
      std::int64_t above = 0, below = 0;
      for (std::int64_t t = 0; t < taps; t++) {
        const std::int64_t level = c.levels[static_cast<std::size_t>(o * taps + t)];
        above += level > 0 ? level * layer.in_hi : level * layer.in_lo;
        below += level > 0 ? level * layer.in_lo : level * layer.in_hi;
      }
      layer.acc_bound = std::max({layer.acc_bound, above, -below});
    }
    if (!kernel.can(layer)) {
      std::printf("FAILED %s depthwise: refuses a layer, round %d\n", isa.name, round);
      failures++;
      return;
    }
    const Bytes maps = to_map(c.in, c.x), residual = to_map(c.res, c.r), expected = reference(c);
    Bytes got = empty_map(c.out);
    Task task = task_of(maps, c.in.map_stride(), got, c.out.map_stride(), c.in.samples);
    if (c.residual) task.residual = residual.data(), task.res_stride = c.res.map_stride();
    const int threads = static_cast<int>(draw(1, 3));
    const AlignedBytes scratch(kernel.scratch(layer, c.in.samples, threads));
    task.scratch = scratch.data();
    for (int phase = 0; phase < kernel.phases; phase++)
      on_threads(task, [&](const Task &t) { kernel.run(layer, t, phase); }, threads);
    const int before = failures;
    compare(isa.name, "depthwise", c.out, got, expected);
    if (failures > before)
      std::printf("  round %d format %s planes %d kernel %lld %lld stride %lld %lld dilation %lld %lld pad %lld %lld in %lld %lld %lld residual %d narrow %d unit %d threads %d\n",
                  round, c.format->name, layer.w.planes, static_cast<long long>(c.g.kernel_h), static_cast<long long>(c.g.kernel_w),
                  static_cast<long long>(c.g.stride_h), static_cast<long long>(c.g.stride_w), static_cast<long long>(c.g.dilation_h),
                  static_cast<long long>(c.g.dilation_w), static_cast<long long>(c.g.pad_top), static_cast<long long>(c.g.pad_left),
                  static_cast<long long>(c.g.in_c), static_cast<long long>(c.g.in_h), static_cast<long long>(c.g.in_w), c.residual,
                  c.narrow, c.unit, threads);
    taken++;
  }
  std::printf("depthwise %s: %s (%d layers)\n", isa.name, failures ? "FAILED" : "all equal", taken);
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  for (const Isa &isa : isas())
    for (const ConvKernel *kernel : isa.conv)
      if (std::strcmp(kernel->name, "depthwise") == 0) check(isa, *kernel, rounds);
  return failures != 0;
}
