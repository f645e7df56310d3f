// Planar values, the same values as maps, and tasks on threads: what the tests of kernels on maps share.
#ifndef BITSHIFT_TESTS_MAPS_H
#define BITSHIFT_TESTS_MAPS_H

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../simd/isa.h"
#include "../simd/lists.h"

namespace {

using namespace bitshift::simd;

std::mt19937 rng(7);
int failures = 0;

std::int64_t draw(std::int64_t lo, std::int64_t hi) {
  return lo + static_cast<std::int64_t>(rng() % static_cast<std::uint64_t>(hi - lo + 1));
}

using Bytes = std::vector<std::uint8_t>;

// A value of some samples, channels first, and the same as maps.
struct Value {
  bsk_dtype type;
  Map map;
  std::int64_t samples;

  std::int64_t count() const { return map.channels * map.height * map.width; }
  std::int64_t planar_bytes() const { return count() * map.item; }
  // Samples of maps lie apart by some bytes that belong to nobody.
  std::int64_t map_stride() const { return (map.bytes() + 63) / 64 * 64 + 64; }

  std::int64_t get(const Bytes &planar, std::int64_t i) const {
    const std::uint8_t *p = planar.data() + i * map.item;
    std::int16_t half;
    std::int32_t word;
    switch (type) {
      case BSK_U8: return *p;
      case BSK_I8: return static_cast<std::int8_t>(*p);
      case BSK_I16: std::memcpy(&half, p, 2); return half;
      default: std::memcpy(&word, p, 4); return word;
    }
  }

  std::int64_t lo() const { return type == BSK_U8 ? 0 : type == BSK_I8 ? -128 : type == BSK_I16 ? -32768 : INT32_MIN; }
  std::int64_t hi() const { return type == BSK_U8 ? 255 : type == BSK_I8 ? 127 : type == BSK_I16 ? 32767 : INT32_MAX; }
};

Value value(bsk_dtype type, std::int64_t c, std::int64_t h, std::int64_t w, std::int64_t samples) {
  Value v;
  v.type = type;
  v.samples = samples;
  v.map.channels = c;
  v.map.height = h;
  v.map.width = w;
  v.map.item = static_cast<int>(bsk_dtype_size(type));
  v.map.zero = type == BSK_I8 ? 128 : 0;
  if (v.map.item == 1) v.map.border_h = h > 1 ? draw(0, 3) : 0, v.map.border_w = draw(0, 3);
  return v;
}

// Random values of magnitude at most `most`, among them both ends.
Bytes random_planar(const Value &v, std::int64_t most) {
  Bytes x(static_cast<std::size_t>(v.planar_bytes() * v.samples));
  const std::int64_t lo = std::max(-most, v.lo()), hi = std::min(most, v.hi());
  const std::int64_t kind = draw(0, 3);
  for (std::int64_t i = 0; i < v.count() * v.samples; i++) {
    const std::int64_t q = kind == 0 ? hi : kind == 1 ? lo : draw(0, 7) == 0 ? (draw(0, 1) ? lo : hi) : draw(lo, hi);
    const std::int32_t word = static_cast<std::int32_t>(q);
    std::memcpy(x.data() + i * v.map.item, &word, static_cast<std::size_t>(v.map.item));
  }
  return x;
}

// Maps written by plain loops: borders of zeros, everything else 0xA5.
Bytes to_map(const Value &v, const Bytes &planar) {
  Bytes m(static_cast<std::size_t>(v.map_stride() * (v.samples - 1) + v.map.bytes()), 0xA5);
  for (std::int64_t s = 0; s < v.samples; s++) {
    std::uint8_t *base = m.data() + s * v.map_stride();
    std::memset(base, v.map.zero, static_cast<std::size_t>((v.map.height + 2 * v.map.border_h) * v.map.row()));
    for (std::int64_t c = 0; c < v.map.channels; c++)
      for (std::int64_t y = 0; y < v.map.height; y++)
        for (std::int64_t x = 0; x < v.map.width; x++) {
          std::uint8_t *to = base + v.map.origin() + y * v.map.row() + (x * v.map.channels + c) * v.map.item;
          const std::int64_t i = ((s * v.map.channels + c) * v.map.height + y) * v.map.width + x;
          std::memcpy(to, planar.data() + i * v.map.item, static_cast<std::size_t>(v.map.item));
          if (v.map.item == 1) *to = static_cast<std::uint8_t>(*to + v.map.zero);
        }
  }
  return m;
}

Bytes empty_map(const Value &v) { return Bytes(static_cast<std::size_t>(v.map_stride() * (v.samples - 1) + v.map.bytes()), 0x5A); }

// Pixels equal those of `planar`, and every other byte is still `fill`.
void compare(const char *isa, const char *what, const Value &v, const Bytes &map, const Bytes &planar) {
  Bytes expected = to_map(v, planar), inside(expected.size(), 0);
  for (std::int64_t s = 0; s < v.samples; s++)
    for (std::int64_t y = 0; y < v.map.height; y++)
      std::memset(inside.data() + s * v.map_stride() + v.map.origin() + y * v.map.row(), 1,
                  static_cast<std::size_t>(v.map.width * v.map.channels * v.map.item));
  for (std::size_t i = 0; i < map.size(); i++) {
    const std::uint8_t want = inside[i] ? expected[i] : 0x5A;
    if (map[i] == want) continue;
    std::printf("FAILED %s %s: byte %zu is %d, expected %d (%s; C %lld H %lld W %lld border %lld %lld item %d zero %d samples %lld)\n", isa,
                what, i, map[i], want, inside[i] ? "pixel" : "outside", static_cast<long long>(v.map.channels),
                static_cast<long long>(v.map.height), static_cast<long long>(v.map.width), static_cast<long long>(v.map.border_h),
                static_cast<long long>(v.map.border_w), v.map.item, v.map.zero, static_cast<long long>(v.samples));
    failures++;
    return;
  }
}

template <class F>
void on_threads(Task task, F f, int threads = static_cast<int>(draw(1, 3))) {
  task.threads = threads;
  std::vector<std::thread> pool;
  for (int t = 1; t < task.threads; t++) {
    Task mine = task;
    mine.thread = t;
    pool.emplace_back([=] { f(mine); });
  }
  f(task);
  for (auto &t : pool) t.join();
}

Task task_of(const Bytes &in, std::int64_t in_stride, Bytes &out, std::int64_t out_stride, std::int64_t samples) {
  Task t;
  t.in = in.data();
  t.out = out.data();
  t.in_stride = in_stride;
  t.out_stride = out_stride;
  t.samples = samples;
  return t;
}

}  // namespace
#endif
