// Depthwise convolution with vpdpbusd: a dword of a register holds four input rows of one channel ("quad"), and the weights of an
// output row that begins v rows further down are the same bytes moved up by v: one quad serves every output row whose taps lie
// in it, and every column it is a tap of. 3x3, stride 1: two output rows share each quad, 6 vpdpbusd for 32 sums, 4 loads, 3
// blends and a byte permutation, which also repeats channels where a layer has several outputs for an input.
#include "lists.h"
#include "vec_avx512.h"

#define BITSHIFT_ISA_NAMESPACE avx512::depthwise

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr int kBlocks = 1;  // of a panel of requant.inc.h

namespace {

constexpr int kQuad = 4;

// Bytes [row][16 channels] to dwords [channel][4 rows].
BITSHIFT_INLINE __m512i quad(const std::uint8_t *const *rows, std::int64_t at, __m512i order) {
  const auto row = [&](int k) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[k] + at)); };
  __m512i x = _mm512_castsi128_si512(row(0));
  x = _mm512_mask_broadcast_i32x4(x, 0x00F0, row(1));
  x = _mm512_mask_broadcast_i32x4(x, 0x0F00, row(2));
  x = _mm512_mask_broadcast_i32x4(x, 0xF000, row(3));
  return _mm512_permutexvar_epi8(order, x);
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

struct Engine {
  const ConvLayer &layer;
  std::int64_t tile, rows, quads;
  std::size_t weight_bytes;
  bool slide;  // planes == 1, 3 columns of one quad, dilation_w 1, stride_w 1 or 2: the columns of a row share quads

  explicit Engine(const ConvLayer &l) : layer(l) {
    const bsk_conv &g = l.g;
    quads = (g.kernel_h + kQuad - 1) / kQuad;
    rows = quads * kQuad;
    tile = g.dilation_h == 1 ? (rows - g.kernel_h) / g.stride_h + 1 : 1;
    weight_bytes = sizeof(Header) + static_cast<std::size_t>(tile * quads * g.kernel_w * l.w.planes) * 64u;
    slide = l.w.planes == 1 && quads == 1 && g.kernel_w == 3 && g.dilation_w == 1 && g.stride_w <= 2 && tile <= 2;
  }

  // Behind the header, vectors [plane][column][quad][output row of the tile]; the first output row's are looked up, the others
  // are its bytes moved up by the rows between them.
  void decode(std::int64_t block, std::uint8_t *memory) const {
    const bsk_conv &g = layer.g;
    const std::int64_t each = g.out_c / g.in_c, lane0 = block * kLanes;
    Header *const header = reinterpret_cast<Header *>(memory);
    header->first = each == 1 ? lane0 : lane0 / each;
    if (each == 1) {
      for (int i = 0; i < 64; i++) header->order[i] = static_cast<std::uint8_t>(16 * (i % kQuad) + i / kQuad);
    } else {
      std::int64_t input = 0, output = lane0 % each;
      for (int lane = 0; lane < kLanes; lane++) {
        for (int k = 0; k < kQuad; k++) header->order[lane * kQuad + k] = static_cast<std::uint8_t>(16 * k + input);
        if (++output == each) output = 0, input++;
      }
    }
    __m512i *weights = reinterpret_cast<__m512i *>(memory + sizeof(Header));
    const std::uint8_t *const packed = layer.w.packed + static_cast<std::size_t>(block) * layer.w.block_bytes();
    for (int p = 0; p < layer.w.planes; p++) {
      const Levels levels(layer.w.table[p], layer.w.format->bits);
      for (std::int64_t x = 0; x < g.kernel_w; x++, weights += quads * tile) {
        for (std::int64_t q = 0; q < quads; q++) weights[q * tile] = quad_levels(packed, levels, x, q);
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

  // Taps 4q .. 4q + 3 of column x of a block's kernels, [lane][tap]; 0 where the kernel has ended.
  BITSHIFT_INLINE __m512i quad_levels(const std::uint8_t *packed, const Levels &levels, std::int64_t x, std::int64_t q) const {
    const int bits = layer.w.format->bits;
    const std::int64_t taps = layer.g.kernel_h - q * kQuad;
    const __m512i one = _mm512_set1_epi32(1);
    __m512i codes = _mm512_setzero_si512();
    for (int j = kQuad - 1; j >= 0; j--) {
      codes = _mm512_slli_epi32(codes, 8);
      if (j >= taps) continue;
      const std::uint8_t *words = packed + ((q * kQuad + j) * layer.g.kernel_w + x) * 2 * bits;
      __m512i code = _mm512_setzero_si512();
      for (int b = bits - 1; b >= 0; b--) {  // from the highest bit: twice the code, and the next
        std::uint16_t word;
        __builtin_memcpy(&word, words + 2 * b, 2);
        code = _mm512_add_epi32(code, code);
        code = _mm512_mask_or_epi32(code, word, code, one);
      }
      codes = _mm512_or_si512(codes, code);
    }
    const __m512i live = _mm512_set1_epi32(static_cast<int>(taps >= kQuad ? 0xFFFFFFFFu : (1u << (8 * taps)) - 1));
    return _mm512_and_si512(live, levels.look_up(codes));
  }

  void run(const std::uint8_t *memory, const std::uint8_t *const *in, std::int32_t *sums, std::int64_t sums_row) const {
    const Header *const header = reinterpret_cast<const Header *>(memory);
    const std::uint8_t *const weights = memory + sizeof(Header);
    const std::int64_t first = header->first;
    const __m512i order = _mm512_load_si512(header->order);
    if (slide) {
      if (tile == 2) return layer.g.stride_w == 1 ? sliding<2, 1>(first, weights, in, order, sums, sums_row) : sliding<2, 2>(first, weights, in, order, sums, sums_row);
      return layer.g.stride_w == 1 ? sliding<1, 1>(first, weights, in, order, sums, sums_row) : sliding<1, 2>(first, weights, in, order, sums, sums_row);
    }
    std::int64_t v = 0;  // output rows four at a time
    for (; v + 4 <= tile; v += 4) any<4>(first, weights, in, order, sums, sums_row, v);
    switch (tile - v) {
      case 1: return any<1>(first, weights, in, order, sums, sums_row, v);
      case 2: return any<2>(first, weights, in, order, sums, sums_row, v);
      case 3: return any<3>(first, weights, in, order, sums, sums_row, v);
    }
  }

  template <int Rows, int Stride>
  __attribute__((noinline)) void sliding(std::int64_t first, const std::uint8_t *weights, const std::uint8_t *const *in, __m512i order,
                                         std::int32_t *sums, std::int64_t sums_row) const {
    const std::int64_t pixel = layer.g.in_c, out_w = layer.g.out_w;
    __m512i w[3][Rows];
    for (int x = 0; x < 3; x++)
      for (int v = 0; v < Rows; v++) w[x][v] = _mm512_load_si512(weights + (x * Rows + v) * 64);
    const std::uint8_t *const from[kQuad] = {in[0] + first, in[1] + first, in[2] + first, in[3] + first};
    __m512i q[3];
    q[0] = quad(from, 0, order);
    if (Stride == 1) q[1] = quad(from, pixel, order);
    std::int64_t at = (Stride == 1 ? 2 : 1) * pixel;
    for (std::int64_t ox = 0; ox < out_w; ox++, sums += kLanes) {
      if (Stride == 2) {
        q[1] = quad(from, at, order);
        at += pixel;
      }
      q[2] = quad(from, at, order);
      at += pixel;
      for (int v = 0; v < Rows; v++) {
        __m512i acc = _mm512_setzero_si512();
        for (int x = 0; x < 3; x++) acc = _mm512_dpbusd_epi32(acc, q[x], w[x][v]);
        _mm512_storeu_si512(sums + v * sums_row, acc);
      }
      if (Stride == 1) q[0] = q[1], q[1] = q[2];
      if (Stride == 2) q[0] = q[2];
    }
  }

  // Any kernel, stride, dilation and number of planes; output rows v .. v + Rows - 1 of the tile.
  template <int Rows>
  __attribute__((noinline)) void any(std::int64_t first, const std::uint8_t *weights, const std::uint8_t *const *in, __m512i order,
                                     std::int32_t *sums, std::int64_t sums_row, std::int64_t v) const {
    const bsk_conv &g = layer.g;
    for (std::int64_t ox = 0; ox < g.out_w; ox++) {
      __m512i acc[Rows];
      for (auto &a : acc) a = _mm512_setzero_si512();
      const std::uint8_t *w = weights + v * 64;
      for (int p = 0; p < layer.w.planes; p++) {
        for (std::int64_t x = 0; x < g.kernel_w; x++) {
          const std::int64_t at = first + (ox * g.stride_w + x * g.dilation_w) * g.in_c;
          for (std::int64_t k = 0; k < quads; k++, w += tile * 64) {
            const __m512i data = quad(in + k * kQuad, at, order);
            for (int i = 0; i < Rows; i++) acc[i] = _mm512_dpbusd_epi32(acc[i], data, _mm512_load_si512(w + i * 64));
          }
        }
        if (layer.w.planes > 1)
          for (auto &a : acc) a = _mm512_sll_epi32(a, _mm_cvtsi32_si128(layer.w.shift[p]));
      }
      for (int i = 0; i < Rows; i++) _mm512_storeu_si512(sums + (v + i) * sums_row + ox * kLanes, acc[i]);
    }
  }
};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE

#include "requant.inc.h"

#include "depthwise.inc.h"

namespace bitshift::simd::avx512 {

static const ConvKernel kernel = {"depthwise", depthwise::can, depthwise::scratch, 1, depthwise::run};
extern const ConvKernel *const depthwise_kernels[] = {&kernel, nullptr};

}  // namespace bitshift::simd::avx512
