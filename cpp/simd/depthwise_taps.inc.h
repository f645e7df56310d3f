// The Engine of depthwise.inc.h for instruction sets without a dot product of bytes: a tap is one product of a vector of channels
// with a vector of weights, in 16 bits where the true sum of every output fits them, else in 32. Both wrap, so the levels of every
// format serve as they are, modulo 2^16 or 2^32, and nothing can saturate. Included in the namespace of depthwise.inc.h.
//
// 16 bits: the loader's bound is on the true sum, that of stored bytes less `correction`. So the sum starts at -correction, is
// widened with its sign, and correction comes back in 32 bits.

namespace {

#include "depthwise_tile.inc.h"
#include "lanes.inc.h"

// Bytes to elements of V. Where gcc would take a vector apart, one intrinsic.
template <class V>
BITSHIFT_INLINE V widen(const std::uint8_t *p) {
  constexpr int lanes = sizeof(V) / sizeof(V{}[0]);
#if defined(__AVX2__)
  if constexpr (lanes == 16) return V(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
  else return V(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
#elif defined(__aarch64__)
  if constexpr (lanes == 8) {
    return V(vmovl_u8(vld1_u8(p)));
  } else {
    const uint8x8_t four = vreinterpret_u8_u32(vdup_n_u32(load<std::uint32_t>(p)));
    return V(vmovl_u16(vget_low_u16(vmovl_u8(four))));
  }
#else
  return __builtin_convertvector(load<Vector<std::uint8_t, lanes>>(p), V);
#endif
}

// The halves of a vector of 16-bit sums in 32 bits.
#if defined(__AVX2__)
using Wide = Vector<std::int32_t, 8>;
BITSHIFT_INLINE Wide low_half(Vector<std::int16_t, 16> v) { return Wide(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(__m256i(v)))); }
BITSHIFT_INLINE Wide high_half(Vector<std::int16_t, 16> v) { return Wide(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(__m256i(v), 1))); }
#else
using Wide = Vector<std::int32_t, 4>;
BITSHIFT_INLINE Wide low_half(Vector<std::int16_t, 8> v) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), Wide);
}
BITSHIFT_INLINE Wide high_half(Vector<std::int16_t, 8> v) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), Wide);
}
#endif

using Tile = Vector<std::uint8_t, kLanes>;

struct Engine {
  // What decode() leaves of a block, in front of its taps.
  struct alignas(64) Header {
    std::int32_t correction[kLanes], start[kLanes];  // start: -correction, as the type of the sums has it
    std::uint8_t order[kLanes];                      // of lane: its input channel - first
    std::int64_t first;
  };

  const ConvLayer &layer;
  std::int64_t tile = 1, rows, taps;
  bool narrow, repeat;  // repeat: several outputs for an input
  std::size_t weight_bytes;
  std::uint8_t level_bytes[2][kLanes] = {};  // low and high bytes of the levels of formats of at most 4 bits

  explicit Engine(const ConvLayer &l) : layer(l) {
    rows = l.g.kernel_h;
    taps = rows * l.g.kernel_w;
    narrow = l.acc_bound < 32768;
    repeat = l.g.out_c != l.g.in_c;
    const int codes = 1 << l.w.format->bits;
    for (int code = 0; code < codes && codes <= kLanes; code++) {
      level_bytes[0][code] = static_cast<std::uint8_t>(l.w.format->levels[code]);
      level_bytes[1][code] = static_cast<std::uint8_t>(l.w.format->levels[code] >> 8);
    }
    weight_bytes = sizeof(Header) + (static_cast<std::size_t>(taps * kLanes) * (narrow ? 2u : 4u) + 63u) / 64u * 64u;
  }

  std::size_t scratch_bytes() const { return static_cast<std::size_t>((layer.g.out_w + 3) * kLanes) * sizeof(std::int32_t); }

  std::int64_t row_offset(std::int64_t k, std::int64_t) const { return k * layer.g.dilation_h * layer.in.row(); }

  void decode(std::int64_t block, std::uint8_t *memory) const {
    const std::int64_t each = layer.g.out_c / layer.g.in_c, lane0 = block * kLanes;
    Header *const header = reinterpret_cast<Header *>(memory);
    header->first = lane0 / each;
    std::int64_t input = 0, output = lane0 % each;
    for (std::int64_t lane = 0; lane < kLanes; lane++) {
      const std::int32_t correction = lane0 + lane < layer.g.out_c ? layer.q.correction[lane0 + lane] : 0;
      header->correction[lane] = narrow ? correction : 0;
      header->start[lane] = narrow ? static_cast<std::int32_t>(0u - static_cast<std::uint32_t>(correction)) : 0;
      header->order[lane] = static_cast<std::uint8_t>(input);
      if (++output == each) output = 0, input++;
    }
    const int bits = layer.w.format->bits;
    const std::uint8_t *words = layer.w.packed + static_cast<std::size_t>(block) * layer.w.block_bytes();
    std::uint8_t *to = memory + sizeof(Header);
    for (std::int64_t t = 0; t < taps; t++, words += 2 * bits) {
      const Tile codes = tap_codes(words, bits);
      if (bits <= 4) {
        // Two look-ups of bytes make 16-bit levels; those of at most 4 bits fit (128 at most).
        const Tile low = __builtin_shuffle(load<Tile>(level_bytes[0]), codes), high = __builtin_shuffle(load<Tile>(level_bytes[1]), codes);
        Tile both[2];
        both[0] = __builtin_shuffle(low, high, Tile{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
        both[1] = __builtin_shuffle(low, high, Tile{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
        if (narrow) {
          store(to, both[0]);
          store(to + 16, both[1]);
          to += 32;
        } else {
          for (int half = 0; half < 2; half++)
            for (int lane = 0; lane < 8; lane++, to += 4)
              store(to, static_cast<std::int32_t>(load<std::int16_t>(reinterpret_cast<const std::uint8_t *>(&both[half]) + 2 * lane)));
        }
        continue;
      }
      std::uint8_t code[kLanes];
      store(code, codes);
      const std::int32_t *const levels = layer.w.format->levels;
      for (int lane = 0; lane < kLanes; lane++, to += narrow ? 2 : 4) {
        if (narrow) store(to, static_cast<std::int16_t>(levels[code[lane]]));
        else store(to, levels[code[lane]]);
      }
    }
  }

  // The codes of a tap: bit `lane` of word b is bit b of a lane's code.
  static BITSHIFT_INLINE Tile tap_codes(const std::uint8_t *words, int bits) {
    constexpr Tile bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    Tile codes = {};
    for (int b = bits - 1; b >= 0; b--) {  // from the highest bit: twice the code, and the next
      const Tile bytes = {words[2 * b], words[2 * b], words[2 * b], words[2 * b], words[2 * b], words[2 * b], words[2 * b], words[2 * b],
                          words[2 * b + 1], words[2 * b + 1], words[2 * b + 1], words[2 * b + 1], words[2 * b + 1], words[2 * b + 1],
                          words[2 * b + 1], words[2 * b + 1]};
      codes = codes + codes - Tile((bytes & bit) != 0);  // a comparison is -1 where it holds
    }
    return codes;
  }

  void run(const std::uint8_t *memory, const std::uint8_t *const *in, const PanelRequant &panel, const TileRuns &to, std::uint8_t *scratch) const {
    std::int32_t *const sums = reinterpret_cast<std::int32_t *>(scratch);
    if (narrow) {
      (repeat ? &Engine::columns<std::int16_t, true> : &Engine::columns<std::int16_t, false>)(layer.g, memory, in, sums);
    } else {
      (repeat ? &Engine::columns<std::int32_t, true> : &Engine::columns<std::int32_t, false>)(layer.g, memory, in, sums);
    }
    to.finish(layer, panel, sums, 0, layer.g.out_w);
  }

  template <class T, bool Repeat>
  static void columns(const bsk_conv &g, const std::uint8_t *memory, const std::uint8_t *const *in, std::int32_t *sums) {
    std::int64_t x = 0;
    if (g.kernel_h == 3 && g.kernel_w == 3 && g.dilation_w == 1) {
      if (g.stride_w == 1) x = Sums<T, Repeat>::template three<1>(g, memory, in, sums);
      if (g.stride_w == 2) x = Sums<T, Repeat>::template three<2>(g, memory, in, sums);
    }
    Sums<T, Repeat>::any(g, memory, in, sums, x);
  }

  // Sums of elements T of 16 channels.
  template <class T, bool Repeat>
  struct Sums {
    static constexpr int lanes = kWidth / static_cast<int>(sizeof(T)) < kLanes ? kWidth / static_cast<int>(sizeof(T)) : kLanes;
    static constexpr int parts = kLanes / lanes;
    using V = Vector<T, lanes>;

    V part[parts];

    // The channels of a pixel.
    static BITSHIFT_INLINE Sums pixel(const Header &header, const std::uint8_t *p) {
      Sums s;
      std::uint8_t bytes[kLanes];
      if constexpr (Repeat) {
        store(bytes, __builtin_shuffle(load<Tile>(p), load<Tile>(header.order)));
        p = bytes;
      }
      for (int i = 0; i < parts; i++) s.part[i] = widen<V>(p + i * lanes);
      return s;
    }

    static BITSHIFT_INLINE Sums start(const Header &header) {
      Sums s;
      T values[kLanes];
      for (int lane = 0; lane < kLanes; lane++) values[lane] = static_cast<T>(header.start[lane]);
      for (int i = 0; i < parts; i++) s.part[i] = load<V>(values + i * lanes);
      return s;
    }

    // Wraps, so it is done without signs.
    BITSHIFT_INLINE void add(const Sums &x, const T *w) {
      using Unsigned = Vector<std::make_unsigned_t<T>, lanes>;
      for (int i = 0; i < parts; i++) part[i] = V(Unsigned(part[i]) + Unsigned(x.part[i]) * load<Unsigned>(w + i * lanes));
    }

    BITSHIFT_INLINE void finish(const Header &header, std::int32_t *to) const {
      for (int i = 0; i < parts; i++, to += lanes) {
        if constexpr (sizeof(T) == 4) {
          store(to, part[i]);
        } else {
          const std::int32_t *const back = header.correction + i * lanes;
          store(to, low_half(part[i]) + load<Wide>(back));
          store(to + lanes / 2, high_half(part[i]) + load<Wide>(back + lanes / 2));
        }
      }
    }

    // 3 x 3, dilation_w 1: four columns at a time share the pixels of their windows. Gives the first column it leaves.
    template <int Stride>
    static std::int64_t three(const bsk_conv &g, const std::uint8_t *memory, const std::uint8_t *const *in, std::int32_t *sums) {
      constexpr int at_once = 4;
      const Header &header = *reinterpret_cast<const Header *>(memory);
      const T *const w = reinterpret_cast<const T *>(memory + sizeof(Header));
      const Sums begin = start(header);
      std::int64_t x = 0;
      for (; x + at_once <= g.out_w; x += at_once) {
        Sums acc[at_once];
        for (auto &a : acc) a = begin;
#pragma GCC unroll 3
        for (int ky = 0; ky < 3; ky++) {
          const std::uint8_t *p = in[ky] + header.first + x * Stride * g.in_c;
#pragma GCC unroll 9
          for (int c = 0; c < 3 + (at_once - 1) * Stride; c++, p += g.in_c) {
            const Sums data = pixel(header, p);
#pragma GCC unroll 4
            for (int o = 0; o < at_once; o++) {
              const int kx = c - o * Stride;
              if (kx >= 0 && kx < 3) acc[o].add(data, w + (ky * 3 + kx) * kLanes);
            }
          }
        }
        for (int o = 0; o < at_once; o++) acc[o].finish(header, sums + (x + o) * kLanes);
      }
      return x;
    }

    // Any kernel, from column x on.
    static void any(const bsk_conv &g, const std::uint8_t *memory, const std::uint8_t *const *in, std::int32_t *sums, std::int64_t x) {
      const Header &header = *reinterpret_cast<const Header *>(memory);
      const Sums begin = start(header);
      for (; x < g.out_w; x++) {
        const T *w = reinterpret_cast<const T *>(memory + sizeof(Header));
        Sums acc = begin;
        for (std::int64_t ky = 0; ky < g.kernel_h; ky++) {
          const std::uint8_t *p = in[ky] + header.first + x * g.stride_w * g.in_c;
          for (std::int64_t kx = 0; kx < g.kernel_w; kx++, p += g.dilation_w * g.in_c, w += kLanes) acc.add(pixel(header, p), w);
        }
        acc.finish(header, sums + x * kLanes);
      }
    }
  };
};

}  // namespace
