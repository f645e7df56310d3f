// The map kernels of every instruction set of this machine against the portable kernels on planar values: random shapes, borders,
// windows and extremes, several samples and threads, in buffers of the exact size.
#include <cmath>
#include <limits>

#include "maps.h"

namespace {

std::int64_t some_channels() {
  static const std::int64_t common[] = {1, 2, 3, 4, 8, 16, 24, 31, 32, 63, 64, 65, 96, 128, 144};
  return draw(0, 2) ? common[draw(0, 14)] : draw(1, 200);
}

Value some_value(bsk_dtype type) {
  const std::int64_t c = some_channels(), h = draw(0, 3) ? draw(1, 12) : 1;
  return value(type, c, h, draw(1, c > 64 ? 12 : 40), draw(1, 3));
}

void planar_and_back(const char *isa, const PixelKernels &k) {
  const Value v = some_value(static_cast<bsk_dtype>(draw(0, 3)));
  const Bytes x = random_planar(v, INT32_MAX);
  Bytes map = empty_map(v);
  on_threads(task_of(x, v.planar_bytes(), map, v.map_stride(), v.samples), [&](const Task &t) { k.from_planar(v.type, v.map, t); });
  compare(isa, "from_planar", v, map, x);
  const Bytes clean = to_map(v, x);
  Bytes back(x.size());
  on_threads(task_of(clean, v.map_stride(), back, v.planar_bytes(), v.samples), [&](const Task &t) { k.to_planar(v.type, v.map, t); });
  if (back != x) {
    std::printf("FAILED %s to_planar\n", isa);
    failures++;
  }
}

void borders(const char *isa, const PixelKernels &k) {
  const Value v = some_value(draw(0, 1) ? BSK_I8 : BSK_U8);
  const Bytes x = random_planar(v, 255), expected = to_map(v, x);
  Bytes map = expected;
  for (std::int64_t s = 0; s < v.samples; s++)
    for (std::int64_t y = 0; y < v.map.height + 2 * v.map.border_h; y++)
      for (std::int64_t b = 0; b < v.map.row(); b++) {
        const bool row = y >= v.map.border_h && y < v.map.border_h + v.map.height, left = b < v.map.border_w * v.map.channels;
        if (!row || left || b >= v.map.row() - v.map.border_w * v.map.channels)
          map[static_cast<std::size_t>(s * v.map_stride() + y * v.map.row() + b)] = 0x77;
      }
  on_threads(task_of(x, 0, map, v.map_stride(), v.samples), [&](const Task &t) { k.border(v.map, t); });
  if (map != expected) {
    std::printf("FAILED %s border\n", isa);
    failures++;
  }
}

void quantized_images(const char *isa, const PixelKernels &k) {
  const Value v = some_value(draw(0, 1) ? BSK_I8 : BSK_U8);
  const int frac = static_cast<int>(draw(0, 3) ? draw(-3, 9) : draw(-64, 64));
  const double factor = std::ldexp(1.0, frac), half = draw(0, 1) ? 0.5 : 0.0;
  const std::int32_t lo = static_cast<std::int32_t>(draw(0, 2) ? v.lo() : draw(0, v.hi())), hi = static_cast<std::int32_t>(draw(std::max<std::int64_t>(lo, 0), v.hi()));
  const std::int64_t n = v.count() * v.samples;
  std::vector<float> x(static_cast<std::size_t>(n));
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float odd[] = {0.f, -0.f, inf, -inf, nan, -nan, 1e-45f, -1e-45f, 3e38f, -3e38f, 0.49999997f, -0.49999997f, 0.5f, -0.5f, 2147483648.f, -2147483904.f, 1e-38f, -1e-38f};
  for (auto &e : x) {
    switch (draw(0, 3)) {
      case 0: e = odd[draw(0, 17)]; break;
      case 1: e = static_cast<float>(std::ldexp(static_cast<double>(draw(-600, 600)) / 2, -frac)); break;  // ties
      case 2: e = std::nextafterf(static_cast<float>(std::ldexp(static_cast<double>(draw(-600, 600)) / 2, -frac)), draw(0, 1) ? inf : -inf); break;
      default: e = static_cast<float>(std::ldexp(static_cast<double>(draw(-300000, 300000)) / 1000, -frac));
    }
  }
  Bytes expected(static_cast<std::size_t>(n)), map = empty_map(v), in(static_cast<std::size_t>(n) * 4);
  std::memcpy(in.data(), x.data(), in.size());
  bsk_quantize(factor, half, lo, hi, x.data(), expected.data(), v.type, static_cast<std::size_t>(n));
  on_threads(task_of(in, v.count() * 4, map, v.map_stride(), v.samples), [&](const Task &t) { k.quantize(factor, half, lo, hi, v.map, t); });
  compare(isa, "quantize", v, map, expected);
}

bsk_pool some_pool(const Value &v, bool dilated) {
  bsk_pool p{};
  p.channels = v.map.channels;
  p.in_h = v.map.height;
  p.in_w = v.map.width;
  const bool whole = draw(0, 4) == 0;
  p.kernel_h = whole ? p.in_h : draw(1, 4);
  p.kernel_w = whole ? p.in_w : draw(1, 4);
  p.stride_h = draw(1, 3);
  p.stride_w = draw(1, 3);
  p.dilation_h = dilated ? draw(1, 3) : 1;
  p.dilation_w = dilated ? draw(1, 3) : 1;
  p.pad_top = whole ? 0 : draw(0, 4);
  p.pad_left = whole ? 0 : draw(0, 4);
  p.out_h = whole ? 1 : draw(1, 2 + (p.in_h + 2 * p.pad_top) / p.stride_h);
  p.out_w = whole ? 1 : draw(1, 2 + (p.in_w + 2 * p.pad_left) / p.stride_w);
  return p;
}

void max_pools(const char *isa, const PixelKernels &k) {
  const Value v = some_value(static_cast<bsk_dtype>(draw(0, 3)));
  const bsk_pool p = some_pool(v, true);
  const Value y = value(v.type, v.map.channels, p.out_h, p.out_w, v.samples);
  const Bytes x = random_planar(v, INT32_MAX), maps = to_map(v, x);
  Bytes expected(static_cast<std::size_t>(y.planar_bytes() * y.samples)), got = empty_map(y);
  for (std::int64_t s = 0; s < v.samples; s++)
    bsk_max_pool(&p, x.data() + s * v.planar_bytes(), expected.data() + s * y.planar_bytes(), v.type, static_cast<std::int32_t>(v.lo()));
  on_threads(task_of(maps, v.map_stride(), got, y.map_stride(), v.samples), [&](const Task &t) { k.max_pool(p, v.map, y.map, t); });
  compare(isa, "max_pool", y, got, expected);
}

void avg_pools(const char *isa, const PixelKernels &k, bool large) {
  Value v = some_value(static_cast<bsk_dtype>(draw(0, 3)));
  if (large) v = value(draw(0, 1) ? BSK_I8 : BSK_U8, draw(1, 70), draw(10, 40), draw(10, 40), 2);
  bsk_pool p = some_pool(v, false);
  if (large) p.kernel_h = draw(8, 40), p.kernel_w = draw(8, 40);
  const Value y = value(static_cast<bsk_dtype>(draw(0, 3)), v.map.channels, p.out_h, p.out_w, v.samples);
  const Bytes x = random_planar(v, 1 << 20), maps = to_map(v, x);
  const std::int32_t mult = static_cast<std::int32_t>(draw(0, 1) ? draw(1, 65535) : draw(1, 300));
  const int shift = static_cast<int>(draw(0, 40));
  const std::int64_t offset = draw(0, 3) == 0 ? draw(-(1 << 30), 1 << 30) * 1024 : draw(-100000, 100000);
  const std::int32_t lo = static_cast<std::int32_t>(draw(0, 1) ? y.lo() : std::max<std::int64_t>(y.lo(), -20)), hi = static_cast<std::int32_t>(draw(0, 1) ? y.hi() : 100);
  Bytes expected(static_cast<std::size_t>(y.planar_bytes() * y.samples)), got = empty_map(y);
  for (std::int64_t s = 0; s < v.samples; s++)
    bsk_avg_pool_int(&p, mult, offset, shift, lo, hi, x.data() + s * v.planar_bytes(), v.type, expected.data() + s * y.planar_bytes(), y.type);
  on_threads(task_of(maps, v.map_stride(), got, y.map_stride(), v.samples),
             [&](const Task &t) { k.avg_pool(p, mult, offset, shift, lo, hi, v.map, y.map, t); });
  compare(isa, "avg_pool", y, got, expected);
}

void adds(const char *isa, const PixelKernels &k) {
  const bool bytes = draw(0, 1) == 0;
  const Value a = some_value(static_cast<bsk_dtype>(draw(0, bytes ? 1 : 3)));
  const Value b = value(static_cast<bsk_dtype>(draw(0, bytes ? 1 : 3)), a.map.channels, a.map.height, a.map.width, a.samples);
  const Value y = value(static_cast<bsk_dtype>(draw(0, bytes ? 1 : 3)), a.map.channels, a.map.height, a.map.width, a.samples);
  bsk_add p{};
  const int most = bytes && draw(0, 1) ? 7 : 30;
  p.shift_a = static_cast<int>(draw(0, most));
  p.shift_b = static_cast<int>(draw(0, most));
  p.down = static_cast<int>(draw(0, most == 7 ? 16 : 60));
  p.lo = static_cast<std::int32_t>(draw(0, 1) ? y.lo() : 0);
  p.hi = static_cast<std::int32_t>(draw(0, 1) ? y.hi() : 90);
  const bool two = draw(0, 3) != 0;
  const Bytes x = random_planar(a, INT32_MAX), z = random_planar(b, INT32_MAX), maps = to_map(a, x), others = to_map(b, z);
  Bytes expected(static_cast<std::size_t>(y.planar_bytes() * y.samples)), got = empty_map(y);
  bsk_add_int(&p, x.data(), a.type, two ? z.data() : nullptr, b.type, expected.data(), y.type, static_cast<std::size_t>(a.count() * a.samples));
  Task task = task_of(maps, a.map_stride(), got, y.map_stride(), a.samples);
  if (two) task.residual = others.data(), task.res_stride = b.map_stride();
  on_threads(task, [&](const Task &t) { k.add(p, a.map, b.map, y.map, t); });
  compare(isa, "add", y, got, expected);
}

void tables(const char *isa, const PixelKernels &k) {
  const Value v = some_value(draw(0, 1) ? BSK_I8 : BSK_U8);
  const Value y = value(draw(0, 1) ? BSK_I8 : BSK_U8, v.map.channels, v.map.height, v.map.width, v.samples);
  std::uint8_t table[256];
  for (auto &e : table) e = static_cast<std::uint8_t>(draw(0, 255));
  const Bytes x = random_planar(v, 255), maps = to_map(v, x);
  Bytes expected(x.size()), got = empty_map(y);
  for (std::size_t i = 0; i < x.size(); i++)
    expected[i] = static_cast<std::uint8_t>(table[static_cast<std::uint8_t>(x[i] + v.map.zero)] - y.map.zero);
  on_threads(task_of(maps, v.map_stride(), got, y.map_stride(), v.samples), [&](const Task &t) { k.table(table, v.map, y.map, t); });
  compare(isa, "table", y, got, expected);
}

// Two values into the channels of one.
void concats(const char *isa, const PixelKernels &k) {
  const bsk_dtype type = static_cast<bsk_dtype>(draw(0, 3));
  const Value a = some_value(type), b = value(type, some_channels(), a.map.height, a.map.width, a.samples);
  const Value y = value(type, a.map.channels + b.map.channels, a.map.height, a.map.width, a.samples);
  std::uint8_t table[256];
  for (auto &e : table) e = static_cast<std::uint8_t>(draw(0, 255));
  const bool mapped = a.map.item == 1 && draw(0, 1);
  const Bytes x = random_planar(a, INT32_MAX), z = random_planar(b, INT32_MAX);
  Bytes expected, got = empty_map(y);
  for (std::int64_t s = 0; s < a.samples; s++) {
    for (std::int64_t i = 0; i < a.planar_bytes(); i++) {
      const std::uint8_t e = x[static_cast<std::size_t>(s * a.planar_bytes() + i)];
      expected.push_back(mapped ? static_cast<std::uint8_t>(table[static_cast<std::uint8_t>(e + a.map.zero)] - y.map.zero) : e);
    }
    expected.insert(expected.end(), z.begin() + s * b.planar_bytes(), z.begin() + (s + 1) * b.planar_bytes());
  }
  const Bytes first = to_map(a, x), second = to_map(b, z);
  on_threads(task_of(first, a.map_stride(), got, y.map_stride(), a.samples), [&](const Task &t) { k.channels(mapped ? table : nullptr, a.map, 0, y.map, t); });
  on_threads(task_of(second, b.map_stride(), got, y.map_stride(), a.samples), [&](const Task &t) { k.channels(nullptr, b.map, a.map.channels, y.map, t); });
  compare(isa, "channels", y, got, expected);
}

void check(const char *isa, const PixelKernels &k, int rounds) {
  for (int round = 0; round < rounds && failures < 5; round++) {
    planar_and_back(isa, k);
    borders(isa, k);
    quantized_images(isa, k);
    max_pools(isa, k);
    avg_pools(isa, k, round % 8 == 0);
    adds(isa, k);
    tables(isa, k);
    concats(isa, k);
  }
  std::printf("pixels %s: %s\n", isa, failures ? "FAILED" : "all equal");
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 150;
  check("portable", portable::pixel_kernels, rounds);
  for (const Isa &isa : isas()) check(isa.name, *isa.pixels, rounds);
  return failures != 0;
}
