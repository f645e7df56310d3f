// Depthwise convolution with vpdpbusd: a dword of a register holds four input rows of one channel ("quad"), and the weights of an
// output row that begins v rows further down are the same bytes moved up by v: one quad serves every output row whose taps lie
// in it, and every column it is a tap of. A kernel of one row takes four columns for its rows.
//
// 3x3, stride 1: two output rows share each quad: 4 loads, 2 inserts and a byte permutation, which also repeats channels where a
// layer has several outputs for an input, then 6 vpdpbusd for 32 sums; rule 4 in registers. Other kernels write the quads of a
// strip of columns to memory once and read them for each tap.
#include "lists.h"
#include "vec_avx512.h"

#define BITSHIFT_ISA_NAMESPACE avx512::depthwise

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kBlocks = 1;  // of a panel of requant.inc.h

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "requant.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

#include "depthwise_tile.inc.h"

constexpr int kQuad = 4;

// Bytes [row][16 channels] to dwords [channel][4 rows]: two pairs of rows and one permutation of both.
BITSHIFT_INLINE __m512i quad(const std::uint8_t *const *rows, std::int64_t at, __m512i order) {
  const auto row = [&](int k) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[k] + at)); };
  const auto pair = [&](int k) { return _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(row(k)), row(k + 1), 1)); };
  return _mm512_permutex2var_epi8(pair(0), order, pair(2));
}

// What decode() leaves of a block, in front of its vectors.
struct alignas(64) Header {
  std::uint8_t order[64];  // from quad()'s bytes to dwords
  std::int64_t first;      // the input channel of lane 0
};

// A table of levels by code. Codes over 6 bits need more than one register.
struct Levels {
  __m512i quarter[4];
  bool small;

  Levels(const std::int8_t *levels, int bits) : small(bits <= 6) {
    for (int i = 0; i < 4; i++) quarter[i] = _mm512_loadu_si512(levels + 64 * i);
  }
  __m512i look_up(__m512i codes) const {
    if (small) return _mm512_permutexvar_epi8(codes, quarter[0]);
    const __m512i low = _mm512_permutex2var_epi8(quarter[0], codes, quarter[1]);
    const __m512i high = _mm512_permutex2var_epi8(quarter[2], codes, quarter[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
  }
};

// Where quad() finds a channel of a row in its two pairs.
constexpr std::uint8_t from_pairs(std::int64_t row, std::int64_t channel) {
  return static_cast<std::uint8_t>(row / 2 * 64 + row % 2 * 16 + channel);
}

struct Engine {
  const ConvLayer &layer;
  bool flat;   // one row of taps: quads are four columns, dilation_w apart
  bool slide;  // 3x3, stride 1 or 2, no dilation, one plane, bytes out: columns share quads in registers
  std::int64_t quads, columns, column_step;  // of a kernel: quads of its rows, columns of them, and pixels between those
  std::int64_t tile, rows, chunk;            // chunk: output columns of a strip
  std::size_t weight_bytes, strip_bytes;

  explicit Engine(const ConvLayer &l) : layer(l) {
    const bsk_conv &g = l.g;
    flat = g.kernel_h == 1;
    quads = flat ? 1 : (g.kernel_h + kQuad - 1) / kQuad;
    columns = flat ? (g.kernel_w + kQuad - 1) / kQuad : g.kernel_w;
    column_step = flat ? kQuad * g.dilation_w : g.dilation_w;
    rows = quads * kQuad;
    slide = l.w.planes == 1 && g.kernel_h == 3 && g.kernel_w == 3 && g.dilation_h == 1 && g.dilation_w == 1 &&
            g.stride_h == g.stride_w && g.stride_w <= 2 && quick(l.q);
    tile = flat || g.dilation_h > 1 ? 1 : (rows - g.kernel_h) / g.stride_h + 1;
    if (!slide && tile > g.out_h) tile = g.out_h;
    // 32 columns and what a kernel reaches beyond fit the first cache; wide kernels should not read most of a strip twice.
    const std::int64_t reach = (columns - 1) * column_step, wide = reach / g.stride_w;
    chunk = wide > 32 ? wide : 32;
    if (chunk > g.out_w) chunk = g.out_w;
    weight_bytes = sizeof(Header) + static_cast<std::size_t>(tile * quads * columns * l.w.planes) * 64u;
    strip_bytes = slide ? 0 : static_cast<std::size_t>(((chunk - 1) * g.stride_w + reach + 1) * quads) * 64u;
  }

  std::size_t scratch_bytes() const { return strip_bytes + static_cast<std::size_t>((slide ? 0 : tile * chunk + 3) * kLanes) * 4u; }

  // Bytes from the first tap of a tile to tap row k; `last` is the last input row that the map's outputs need.
  std::int64_t row_offset(std::int64_t k, std::int64_t last) const {
    const bsk_conv &g = layer.g;
    if (flat) return (k < g.kernel_w ? k : g.kernel_w - 1) * g.dilation_w * g.in_c;
    return (k * g.dilation_h < last ? k * g.dilation_h : last) * layer.in.row();
  }

  // The tap at row j of a quad, or -1 behind the kernel's end.
  std::int64_t tap(std::int64_t column, std::int64_t q, std::int64_t j) const {
    const std::int64_t along = (flat ? column : q) * kQuad + j;
    if (along >= (flat ? layer.g.kernel_w : layer.g.kernel_h)) return -1;
    return flat ? along : along * layer.g.kernel_w + column;
  }

  // Behind the header, vectors [plane][column][quad][output row of the tile]; the first output row's are looked up, the others
  // are its bytes moved up by the rows between them.
  void decode(std::int64_t block, std::uint8_t *memory) const {
    switch (layer.w.format->bits) {  // loops over bits that are unrolled
      case 2: return decode_bits<2>(block, memory);
      case 3: return decode_bits<3>(block, memory);
      case 4: return decode_bits<4>(block, memory);
      default: decode_bits<0>(block, memory);
    }
  }

  template <int Bits>
  void decode_bits(std::int64_t block, std::uint8_t *memory) const {
    const bsk_conv &g = layer.g;
    const std::int64_t each = g.out_c / g.in_c, lane0 = block * kLanes;
    Header *const header = reinterpret_cast<Header *>(memory);
    header->first = each == 1 ? lane0 : lane0 / each;
    if (each == 1) {
      for (int i = 0; i < 64; i++) header->order[i] = from_pairs(i % kQuad, i / kQuad);
    } else {
      std::int64_t input = 0, output = lane0 % each;
      for (int lane = 0; lane < kLanes; lane++) {
        for (int k = 0; k < kQuad; k++) header->order[lane * kQuad + k] = from_pairs(k, input);
        if (++output == each) output = 0, input++;
      }
    }
    __m512i *weights = reinterpret_cast<__m512i *>(memory + sizeof(Header));
    const std::uint8_t *const packed = layer.w.packed + static_cast<std::size_t>(block) * layer.w.block_bytes();
    for (int p = 0; p < layer.w.planes; p++) {
      const Levels levels(layer.w.table[p], layer.w.format->bits);
      for (std::int64_t x = 0; x < columns; x++, weights += quads * tile) {
        for (std::int64_t q = 0; q < quads; q++) weights[q * tile] = quad_levels<Bits>(packed, levels, x, q);
        for (std::int64_t v = 1; v < tile; v++) {
          const std::int64_t down = v * g.stride_h, whole = down / kQuad;
          const __m128i part = _mm_cvtsi32_si128(static_cast<int>(8 * (down % kQuad)));
          const __m128i rest = _mm_cvtsi32_si128(static_cast<int>(32 - 8 * (down % kQuad)));  // 32 shifts everything out
          for (std::int64_t q = 0; q < quads; q++) {
            const __m512i here = q < whole ? _mm512_setzero_si512() : weights[(q - whole) * tile];
            const __m512i above = q <= whole ? _mm512_setzero_si512() : weights[(q - whole - 1) * tile];
            weights[q * tile + v] = _mm512_or_si512(_mm512_sll_epi32(here, part), _mm512_srl_epi32(above, rest));
          }
        }
      }
    }
  }

  // The taps of quad q of column x of a block's kernels, [lane][tap]; 0 where the kernel has ended.
  template <int Bits>
  BITSHIFT_INLINE __m512i quad_levels(const std::uint8_t *packed, const Levels &levels, std::int64_t x, std::int64_t q) const {
    const int bits = Bits ? Bits : layer.w.format->bits;
    std::uint32_t live = 0;
    const __m512i one = _mm512_set1_epi32(1);
    __m512i codes = _mm512_setzero_si512();
    for (int j = kQuad - 1; j >= 0; j--) {
      codes = _mm512_slli_epi32(codes, 8);
      const std::int64_t t = tap(x, q, j);
      if (t < 0) continue;
      live |= 0xFFu << (8 * j);
      const std::uint8_t *words = packed + t * 2 * bits;
      __m512i code = _mm512_setzero_si512();
      for (int b = bits - 1; b >= 0; b--) {  // from the highest bit: twice the code, and the next
        std::uint16_t word;
        __builtin_memcpy(&word, words + 2 * b, 2);
        code = _mm512_add_epi32(code, code);
        code = _mm512_mask_or_epi32(code, word, code, one);
      }
      codes = _mm512_or_si512(codes, code);
    }
    return _mm512_and_si512(_mm512_set1_epi32(static_cast<int>(live)), levels.look_up(codes));
  }

  void run(const std::uint8_t *memory, const std::uint8_t *const *in, const PanelRequant &panel, const TileRuns &to, std::uint8_t *scratch) const {
    const bsk_conv &g = layer.g;
    const Header &header = *reinterpret_cast<const Header *>(memory);
    const __m512i *const weights = reinterpret_cast<const __m512i *>(memory + sizeof(Header));
    if (slide) {
      const bool pairs = tile == 2;
      if (layer.q.unit) {
        if (layer.q.residual) return (pairs ? sliding<2, 1, true, true> : sliding<1, 2, true, true>)(g, header, weights, in, panel, to);
        return (pairs ? sliding<2, 1, true, false> : sliding<1, 2, true, false>)(g, header, weights, in, panel, to);
      }
      if (layer.q.residual) return (pairs ? sliding<2, 1, false, true> : sliding<1, 2, false, true>)(g, header, weights, in, panel, to);
      return (pairs ? sliding<2, 1, false, false> : sliding<1, 2, false, false>)(g, header, weights, in, panel, to);
    }
    __m512i *const strip = reinterpret_cast<__m512i *>(scratch);
    std::int32_t *const sums = reinterpret_cast<std::int32_t *>(scratch + strip_bytes);
    for (std::int64_t x = 0; x < g.out_w; x += chunk) {
      const std::int64_t count = g.out_w - x < chunk ? g.out_w - x : chunk;
      write_strip(header, in, x, count, strip);
      std::int64_t v = 0;  // output rows four at a time
      for (; v + 4 <= tile; v += 4) strip_sums<4, 2>(strip, weights + v, count, sums + v * count * kLanes);
      std::int32_t *const rest = sums + v * count * kLanes;
      switch (tile - v) {
        case 1: strip_sums<1, 4>(strip, weights + v, count, rest); break;
        case 2: strip_sums<2, 4>(strip, weights + v, count, rest); break;
        case 3: strip_sums<3, 2>(strip, weights + v, count, rest); break;
      }
      to.finish(layer, panel, sums, x, count);
    }
  }

  // 3 columns, the epilogue on registers: four columns of a row at a time. Up to 3 columns behind the last are computed, from
  // the slack behind the map at worst, and not stored.
  template <int Rows, int Stride, bool Unit, bool Residual>
  __attribute__((noinline)) static void sliding(const bsk_conv &g, const Header &header, const __m512i *weights,
                                                const std::uint8_t *const *in, const PanelRequant &panel, const TileRuns &to) {
    const __m512i order = _mm512_load_si512(header.order);
    const std::uint8_t *const from[kQuad] = {in[0] + header.first, in[1] + header.first, in[2] + header.first, in[3] + header.first};
    const Vec::Clamp clamp = Vec::clamp_of(*panel.q);
    __m512i w[3][Rows];
    for (int x = 0; x < 3; x++)
      for (int v = 0; v < Rows; v++) w[x][v] = weights[x * Rows + v];
    std::int64_t at = 0;
    const auto next = [&] {
      const __m512i q = quad(from, at, order);
      at += g.in_c;
      return q;
    };
    __m512i a = next(), b = Stride == 1 ? next() : a;
    const auto sums = [&](__m512i (&acc)[Rows][4]) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        if (Stride == 2) b = next();
        const __m512i c = next();
#pragma GCC unroll 2
        for (int v = 0; v < Rows; v++)
          acc[v][i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), a, w[0][v]), b, w[1][v]), c, w[2][v]);
        a = Stride == 1 ? b : c;
        b = c;
      }
    };
    const int lanes = panel.count();
    const auto finish = [&](const __m512i (&acc)[Rows][4], std::int64_t x) {
      const std::int64_t left = g.out_w - x;
#pragma GCC unroll 2
      for (int v = 0; v < Rows; v++) {
        if (v >= to.valid) break;
        std::uint8_t *const out = to.out + v * to.out_row + x * to.out_pixel;
        const std::uint8_t *const res = Residual ? to.res + v * to.res_row + x * to.res_pixel : nullptr;
        __m512i y[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) y[i] = requant_narrow<Unit, Residual>(acc[v][i], panel, 0, Residual && i < left ? res + i * to.res_pixel : res);
        const Vec::Bytes bytes = Vec::pack(y[0], y[1], y[2], y[3], clamp);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
          if (i < left) Vec::store_quarter(out + i * to.out_pixel, bytes, i, lanes);
      }
    };
    // The sums of four columns are finished behind those of the next four: vector registers in flight are what bounds this loop.
    __m512i before[Rows][4];
    sums(before);
    std::int64_t x = 4;
    for (; x < g.out_w; x += 4) {
      __m512i acc[Rows][4];
      sums(acc);
      finish(before, x - 4);
      for (int v = 0; v < Rows; v++)
        for (int i = 0; i < 4; i++) before[v][i] = acc[v][i];
    }
    finish(before, x - 4);
  }

  // The quads of `count` output columns from x on, [input column][quad].
  void write_strip(const Header &header, const std::uint8_t *const *in, std::int64_t x, std::int64_t count, __m512i *strip) const {
    const bsk_conv &g = layer.g;
    const __m512i order = _mm512_load_si512(header.order);
    const std::int64_t pixels = (count - 1) * g.stride_w + (columns - 1) * column_step + 1;
    for (std::int64_t q = 0; q < quads; q++) {
      const std::uint8_t *const *const from = in + q * kQuad;
      std::int64_t at = header.first + x * g.stride_w * g.in_c;
      for (std::int64_t i = 0; i < pixels; i++, at += g.in_c) strip[i * quads + q] = quad(from, at, order);
    }
  }

  // Sums of some output rows of a strip, [row][column][16]; Columns at a time for each load of weights.
  template <int Rows, int Columns>
  __attribute__((noinline)) void strip_sums(const __m512i *strip, const __m512i *weights, std::int64_t count, std::int32_t *sums) const {
    std::int64_t x = 0;
    for (; x + Columns <= count; x += Columns) some_sums<Rows, Columns>(strip, weights, count, sums, x);
    for (; x < count; x++) some_sums<Rows, 1>(strip, weights, count, sums, x);
  }

  template <int Rows, int Columns>
  BITSHIFT_INLINE void some_sums(const __m512i *strip, const __m512i *weights, std::int64_t count, std::int32_t *sums, std::int64_t x) const {
    const std::int64_t pixel = layer.g.stride_w * quads, step = column_step * quads;
    __m512i acc[Columns][Rows];
    for (auto &column : acc)
      for (auto &a : column) a = _mm512_setzero_si512();
    for (int p = 0; p < layer.w.planes; p++) {
      const __m512i *from = strip + x * pixel;
      for (std::int64_t kx = 0; kx < columns; kx++, from += step) {
        for (std::int64_t k = 0; k < quads; k++, weights += tile) {
          __m512i data[Columns];
          for (int c = 0; c < Columns; c++) data[c] = from[c * pixel + k];
          for (int i = 0; i < Rows; i++) {
            __m512i w = weights[i];
            asm("" : "+v"(w));  // one load, not one for each use
            for (int c = 0; c < Columns; c++) acc[c][i] = _mm512_dpbusd_epi32(acc[c][i], data[c], w);
          }
        }
      }
      if (layer.w.planes == 1) break;
      for (auto &column : acc)
        for (auto &a : column) a = _mm512_sll_epi32(a, _mm_cvtsi32_si128(layer.w.shift[p]));
    }
    for (int c = 0; c < Columns; c++)
      for (int i = 0; i < Rows; i++) _mm512_storeu_si512(sums + (i * count + x + c) * kLanes, acc[c][i]);
  }
};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "depthwise.inc.h"

namespace bitshift::simd::avx512 {

static const ConvKernel kernel = {"depthwise", depthwise::can, depthwise::scratch, 1, depthwise::run};
extern const ConvKernel *const depthwise_kernels[] = {&kernel, nullptr};

}  // namespace bitshift::simd::avx512
