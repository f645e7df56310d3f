#include "pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace bitshift::simd {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

bool is_depthwise(const bsk_conv &g) { return g.groups > 1 && g.in_c == g.groups; }

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

Weights layout(std::int64_t groups, std::int64_t outputs, std::int64_t segments, std::int64_t segment, const bitshift_format &format,
               int limit) {
  Weights w;
  w.format = &format;
  w.groups = groups;
  w.outputs = outputs;
  w.blocks = ceil_div(outputs, kLanes);
  w.segments = segments;
  w.segment = segment;
  w.segment_steps = ceil_div(segment, kStep);
  w.steps = segments * w.segment_steps;
  w.supers = ceil_div(w.steps, kSuper / (kLanes * kStep));
  w.limit = limit;
  if (!split_levels(format, limit, w)) w.planes = 0;
  return w;
}

// Winograd weights of one output's levels, lv[tap * in_c + channel]; branch-free loops over channels that compilers vectorise.
struct Range {
  std::int16_t one = 0, two = 0;

  static std::int16_t magnitude(std::int16_t v) { return static_cast<std::int16_t>(v < 0 ? -v : v); }

  void add(const std::int16_t *lv, std::int64_t in_c) {
    std::int16_t best1 = one, best2 = two;
    for (std::int64_t c = 0; c < in_c; ++c) {
      // Rows: 2 G g = (2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2) along the width, then the same along the height.
      std::int16_t t[3][4];
      for (int y = 0; y < 3; ++y) {
        const std::int16_t a = lv[(3 * y + 0) * in_c + c], b = lv[(3 * y + 1) * in_c + c], d = lv[(3 * y + 2) * in_c + c];
        const auto ends = static_cast<std::int16_t>(a + d);
        t[y][0] = static_cast<std::int16_t>(2 * a);
        t[y][1] = static_cast<std::int16_t>(ends + b);
        t[y][2] = static_cast<std::int16_t>(ends - b);
        t[y][3] = static_cast<std::int16_t>(2 * d);
        for (int j = 0; j < 4; ++j) best1 = std::max(best1, magnitude(t[y][j]));
      }
      for (int j = 0; j < 4; ++j) {
        const auto ends = static_cast<std::int16_t>(t[0][j] + t[2][j]);
        best2 = std::max(best2, magnitude(static_cast<std::int16_t>(2 * t[0][j])));
        best2 = std::max(best2, magnitude(static_cast<std::int16_t>(ends + t[1][j])));
        best2 = std::max(best2, magnitude(static_cast<std::int16_t>(ends - t[1][j])));
        best2 = std::max(best2, magnitude(static_cast<std::int16_t>(2 * t[2][j])));
      }
    }
    one = best1;
    two = best2;
  }
};

// Writes an output's codes to its lane of a block: steps of 4 inputs, 64 bytes apart. Input k of segment s of the kernel's
// order is code [k % channels][tap] of the row, where a segment is `taps` taps of `channels` inputs each.
void scatter(const std::uint8_t *row, std::int64_t channels, std::int64_t all_taps, const Weights &w, std::uint8_t *lane) {
  const std::int64_t taps = w.segment / channels;
  for (std::int64_t s = 0; s < w.segments; ++s) {
    const std::uint8_t *from = row + s * taps;
    std::uint8_t *to = lane + s * w.segment_steps * 64;
    if (channels % kStep == 0) {
      for (std::int64_t t = 0; t < taps; ++t) {
        for (std::int64_t c = 0; c < channels; c += kStep, to += 64) {
          const std::uint8_t *p = from + c * all_taps + t;
          const std::uint8_t four[kStep] = {p[0], p[all_taps], p[2 * all_taps], p[3 * all_taps]};
          std::memcpy(to, four, kStep);
        }
      }
    } else {
      std::int64_t k = 0;
      for (std::int64_t t = 0; t < taps; ++t)
        for (std::int64_t c = 0; c < channels; ++c, ++k) to[k / kStep * 64 + k % kStep] = from[c * all_taps + t];
    }
  }
}

// The levels of a row of (channels, 9) codes as [tap][channel], for the range analysis, and each tap's sum.
void levels_of(const std::uint8_t *row, std::int64_t channels, const std::int32_t *levels, std::int16_t *out, std::int32_t *sums,
               std::int64_t stride) {
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t t = 0; t < 9; ++t) out[t * channels + c] = static_cast<std::int16_t>(levels[row[c * 9 + t]]);
  for (std::int64_t t = 0; t < 9; ++t) {
    std::int32_t sum = 0;
    for (std::int64_t c = 0; c < channels; ++c) sum += out[t * channels + c];
    sums[t * stride] = sum;
  }
}

std::int64_t sum_levels(const std::uint8_t *row, std::int64_t count, const std::int32_t *levels) {
  std::int64_t sum = 0;
  for (std::int64_t k = 0; k < count; ++k) sum += levels[row[k]];
  return sum;
}

// A depthwise block: a word of 16 outputs for each bit of each tap. Superblocks would pad 9 taps to 32.
void pack_taps(const std::uint8_t *codes, std::int64_t taps, int bits, std::uint8_t *out) {
  for (std::int64_t t = 0; t < taps; ++t) {
    const std::uint8_t *tap = codes + t / kStep * 64 + t % kStep;
    for (int b = 0; b < bits; ++b, out += 2) {
      unsigned word = 0;
      for (int lane = 0; lane < kLanes; ++lane) word |= (tap[lane * kStep] >> b & 1u) << lane;
      out[0] = static_cast<std::uint8_t>(word);
      out[1] = static_cast<std::uint8_t>(word >> 8);
    }
  }
}

PackedWeights pack(Weights w, std::int64_t channels, std::int64_t taps, bool winograd, const CodeRows &rows, std::uint8_t *memory) {
  PackedWeights p;
  if (!memory) {
    p.storage = AlignedBytes(w.bytes());
    memory = p.storage.data();
  }
  w.packed = memory;
  const bitshift_format &format = *w.format;
  const std::int64_t all = channels * taps;
  std::vector<std::uint8_t> block(static_cast<std::size_t>(w.supers) * kSuper);
  // 9 * 3640 fits int16; and the sum of a 3x3 layer's levels fits int32 then for any layer that fits memory.
  winograd = winograd && format.levels && format.max_level <= 3640;
  std::vector<std::int16_t> levels(winograd ? static_cast<std::size_t>(all) : 0);
  if (winograd) p.tap_sums.resize(static_cast<std::size_t>(9 * kLanes * w.blocks));
  Range range;
  if (format.levels) p.level_sums.reserve(static_cast<std::size_t>(w.groups * w.outputs));
  for (std::int64_t group = 0; group < w.groups; ++group) {
    for (std::int64_t b = 0; b < w.blocks; ++b) {
      const std::int64_t first = b * kLanes, lanes = std::min<std::int64_t>(kLanes, w.outputs - first);
      if (lanes < kLanes) std::fill(block.begin(), block.end(), std::uint8_t{0});
      for (std::int64_t lane = 0; lane < lanes; ++lane) {
        const std::uint8_t *row = rows(group * w.outputs + first + lane);
        scatter(row, channels, taps, w, block.data() + lane * kStep);
        if (winograd) {
          std::int32_t *sums = p.tap_sums.data() + first + lane;
          levels_of(row, channels, format.levels, levels.data(), sums, kLanes * w.blocks);
          p.level_sums.push_back(0);
          for (std::int64_t t = 0; t < taps; ++t) p.level_sums.back() += sums[t * kLanes * w.blocks];
          range.add(levels.data(), channels);
        } else if (format.levels) {
          p.level_sums.push_back(sum_levels(row, all, format.levels));
        }
      }
      if (w.depthwise) {
        pack_taps(block.data(), w.segment, format.bits, memory);
      } else {
        for (std::int64_t s = 0; s < w.supers; ++s) pack_superblock(block.data() + s * kSuper, format.bits, memory + s * 64 * format.bits);
      }
      memory += w.block_bytes();
    }
  }
  p.wino1_max = range.one;
  p.wino2_max = range.two;
  p.w = w;
  return p;
}

// Row r of the 64-byte rows that hold `width` bits of each code from bit `low` on, 8 / width codes a byte.
template <class Code>
void put_bits(const std::uint8_t *codes, int low, int width, int row, std::uint8_t *out, Code &&step) {
  const int per = 8 / width, mask = (1 << width) - 1;
  for (int i = 0; i < 64; ++i) {
    int v = 0;
    for (int k = 0; k < per; ++k) v |= (codes[step(row, k) * 64 + i] >> low & mask) << (k * width);
    out[i] = static_cast<std::uint8_t>(v);
  }
}

template <class Code>
void get_bits(const std::uint8_t *in, int low, int width, int row, std::uint8_t *codes, Code &&step) {
  const int per = 8 / width, mask = (1 << width) - 1;
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < per; ++k) {
      std::uint8_t &code = codes[step(row, k) * 64 + i];
      code = static_cast<std::uint8_t>(code | (in[i] >> (k * width) & mask) << low);
    }
}

// Calls f(low bit, width, row of that width, byte offset) for every 64-byte row of a superblock; 3 bits are cut otherwise.
template <class F>
void each_row(int bits, F &&f) {
  static constexpr int parts[9][3] = {{}, {1}, {2}, {}, {4}, {4, 1}, {4, 2}, {4, 2, 1}, {8}};
  int low = 0, offset = 0;
  for (int width : parts[bits]) {
    for (int row = 0; row < width; ++row, offset += 64) f(low, width, row, offset);
    low += width;
  }
}

constexpr auto kStepOf = [](int width) {
  return [width](int row, int k) { return row * (8 / width) + k; };
};

}  // namespace

AlignedBytes::AlignedBytes(std::size_t bytes) : size_(bytes) {
#ifdef __linux__
  const std::size_t align = bytes >= kHuge ? kHuge : 64;
#else
  const std::size_t align = 64;
#endif
  const std::size_t room = (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64;
  data_.reset(static_cast<std::uint8_t *>(std::aligned_alloc(align, room)));
  if (!data_) throw std::bad_alloc();
#ifdef __linux__
  // Advice, on which nothing depends; a page that would be huge only in part stays small, so that no memory is lost behind the end.
  if (align == kHuge) (void)madvise(data_.get(), room / kHuge * kHuge, MADV_HUGEPAGE);
#endif
  std::memset(data_.get(), 0, room);
}

void AlignedBytes::Free::operator()(std::uint8_t *p) const { std::free(p); }

bool split_levels(const bitshift_format &format, int limit, Weights &w) {
  if (!format.levels) return false;
  int down = 0;  // 2^down - 1 <= limit: what is left below a plane fits the next
  while ((2 << down) - 1 <= limit) ++down;
  int planes = 1;
  while ((format.max_level >> (down * (planes - 1))) > limit)
    if (++planes > kMaxPlanes) return false;
  w.planes = planes;
  std::memset(w.table, 0, sizeof w.table);
  for (int p = 0; p < planes; ++p) {
    w.shift[p] = p + 1 < planes ? down : 0;
    const std::int32_t unit = std::int32_t{1} << (down * (planes - 1 - p));
    for (int code = 0; code < 1 << format.bits; ++code) {
      std::int32_t rest = format.levels[code];
      for (int q = 0; q < p; ++q) rest %= std::int32_t{1} << (down * (planes - 1 - q));  // what the planes above left
      w.table[p][code] = static_cast<std::int8_t>(rest / unit);                           // both towards zero
    }
  }
  return true;
}

Weights conv_weights(const bsk_conv &g, const bitshift_format &format, int limit) {
  if (is_depthwise(g)) {
    Weights w = layout(1, g.out_c, 1, g.kernel_h * g.kernel_w, format, limit);
    w.depthwise = true;
    return w;
  }
  if (g.groups == 1 && g.dilation_w == 1) return layout(1, g.out_c, g.kernel_h, g.kernel_w * g.in_c, format, limit);
  return layout(g.groups, g.out_c / g.groups, g.kernel_h * g.kernel_w, g.in_c / g.groups, format, limit);
}

Weights linear_weights(std::int64_t in, std::int64_t out, const bitshift_format &format, int limit) {
  return layout(1, out, 1, in, format, limit);
}

PackedWeights pack_conv(const bsk_conv &g, const bitshift_format &format, int limit, const CodeRows &rows, std::uint8_t *memory) {
  const Weights w = conv_weights(g, format, limit);
  const std::int64_t taps = g.kernel_h * g.kernel_w;
  if (is_depthwise(g)) return pack(w, taps, 1, false, rows, memory);
  const bool winograd = g.groups == 1 && g.kernel_h == 3 && g.kernel_w == 3 && g.stride_h == 1 && g.stride_w == 1 &&
                        g.dilation_h == 1 && g.dilation_w == 1 && g.in_c % kStep == 0;
  return pack(w, g.in_c / g.groups, taps, winograd, rows, memory);
}

PackedWeights pack_linear(std::int64_t in, std::int64_t out, const bitshift_format &format, int limit, const CodeRows &rows,
                          std::uint8_t *memory) {
  return pack(linear_weights(in, out, format, limit), in, 1, false, rows, memory);
}

void pack_superblock(const std::uint8_t *codes, int bits, std::uint8_t *packed) {
  if (bits == 3) {
    const auto X = [codes](int z, int i) { return static_cast<int>(codes[z * 64 + i]); };
    for (int i = 0; i < 64; ++i) {
      packed[i] = static_cast<std::uint8_t>(X(0, i) | X(1, i) << 3 | (X(6, i) & 3) << 6);
      packed[64 + i] = static_cast<std::uint8_t>(X(2, i) | X(3, i) << 3 | (X(7, i) & 3) << 6);
      packed[128 + i] = static_cast<std::uint8_t>(X(4, i) | X(5, i) << 3 | X(6, i) >> 2 << 6 | X(7, i) >> 2 << 7);
    }
    return;
  }
  each_row(bits, [=](int low, int width, int row, int offset) {
    put_bits(codes, low, width, row, packed + offset, kStepOf(width));
  });
}

void unpack_superblock(const std::uint8_t *packed, int bits, std::uint8_t *codes) {
  std::memset(codes, 0, kSuper);
  if (bits == 3) {
    for (int i = 0; i < 64; ++i) {
      const int a = packed[i], b = packed[64 + i], c = packed[128 + i];
      const int x[8] = {a & 7, a >> 3 & 7, b & 7, b >> 3 & 7, c & 7, c >> 3 & 7, a >> 6 | (c >> 6 & 1) << 2, b >> 6 | c >> 7 << 2};
      for (int z = 0; z < 8; ++z) codes[z * 64 + i] = static_cast<std::uint8_t>(x[z]);
    }
    return;
  }
  each_row(bits, [=](int low, int width, int row, int offset) {
    get_bits(packed + offset, low, width, row, codes, kStepOf(width));
  });
}

}  // namespace bitshift::simd
