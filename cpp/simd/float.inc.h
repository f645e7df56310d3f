// Products of float32 values and packed levels: y = (sum x * level) * scale + bias. Included by float_<isa>.cpp, which defines
// BITSHIFT_ISA_NAMESPACE and, in an unnamed namespace, the primitives of its instruction set:
//
//  struct FloatOps {
//    static constexpr int kRows;         // rows of a tile: so many sums, a level and a value fit the registers
//    static constexpr bool kInRegisters; // levels go from look-up to product; else a superblock's go through L1 (less code)
//    using F = ...;  // 16 lanes of float
//    static F zero(); static F load(const float *); static void store(float *, F); static F add(F, F);
//    static F madd(F a, F b, F sum);            // a * b + sum
//    static F madd(F a, const float *b, F sum); // every lane times *b
//    // The levels of a format, ready for look-up, and a superblock's codes. 7 and 8 bits may be taken as two's complement.
//    template <int Bits> struct Levels {
//      explicit Levels(const float *levels);
//      Codes codes(const uint8_t *packed) const;
//      F at(const Codes &, int step, int input) const;   // step 0..7, input 0..3: compile-time constants after unrolling
//    };
//  };
//
// Levels are looked up anew for every tile of rows. With AVX-512 that costs about as much as 3 rows' products, on other ports of
// the processor; from 8 rows on the multiply-adds set the pace, and no decoded panel is needed. A convolution is the same product
// with gathered rows.
#include <cstring>

#include "lists.h"
#include "pack.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

constexpr int kTileRows = FloatOps::kRows;
constexpr std::int64_t kSuperInputs = 32;

// Sums in several parts while there are few: a multiply-add takes 4 cycles, and up to two start each cycle.
template <int Rows>
struct Sums {
  static constexpr int kParts = Rows >= 4 ? 1 : Rows >= 2 ? 2 : 4;
  FloatOps::F of[kParts][Rows];

  Sums() {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; p++)
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) of[p][r] = FloatOps::zero();
  }
  template <class Product>
  __attribute__((always_inline)) void add(const FloatOps::F &level, const Product &product, std::int64_t input, int part) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) of[part % kParts][r] = product(level, input * Rows + r, of[part % kParts][r]);
  }
  void add_to(float *sums) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
      for (int p = 1; p < kParts; p++) of[0][r] = FloatOps::add(of[0][r], of[p][r]);
      FloatOps::store(sums + r * kLanes, FloatOps::add(FloatOps::load(sums + r * kLanes), of[0][r]));
    }
  }
};

// The product that a sum takes up: level times value `at` of a tile of rows, [input][Rows].
struct Multiply {
  const float *rows;
  FloatOps::F operator()(const FloatOps::F &level, std::int64_t at, const FloatOps::F &sum) const {
    return FloatOps::madd(level, rows + at, sum);
  }
};

// Levels of inputs first..first+count-1 that lie in memory, [input][16].
template <int Rows, class Product>
__attribute__((noinline)) void memory_micro(const float *levels, std::int64_t first, std::int64_t count, const Product &product, float *sums) {
  const Product from = product;
  Sums<Rows> sum;
  for (std::int64_t k = 0; k < count; k += kStep)
#pragma GCC unroll 4
    for (int j = 0; j < kStep; j++) sum.add(FloatOps::load(levels + (k + j) * kLanes), from, first + k + j, j);
  sum.add_to(sums);
}

template <int Rows, int Bits, class Product>
__attribute__((noinline)) void register_micro(const FloatOps::Levels<Bits> &levels, const std::uint8_t *packed, std::int64_t supers,
                                              const Product &product, float *sums) {
  const FloatOps::Levels<Bits> table = levels;
  const Product from = product;
  Sums<Rows> sum;
  for (std::int64_t s = 0; s < supers; s++, packed += 64 * Bits) {
    const auto codes = table.codes(packed);
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++)
#pragma GCC unroll 4
      for (int j = 0; j < kStep; j++) sum.add(table.at(codes, z, j), from, s * kSuperInputs + z * kStep + j, j);
  }
  sum.add_to(sums);
}

template <int Bits>
__attribute__((noinline)) void look_up_all(const FloatOps::Levels<Bits> &table, const std::uint8_t *packed, float *levels) {
  const auto codes = table.codes(packed);
#pragma GCC unroll 8
  for (int z = 0; z < 8; z++)
#pragma GCC unroll 4
    for (int j = 0; j < kStep; j++) FloatOps::store(levels + (z * kStep + j) * kLanes, table.at(codes, z, j));
}

// sums[r * 16 + lane] = sum over supers * 32 inputs of product(level, input * Rows + r).
template <int Bits, int Rows, class Product>
void multiply_block(const FloatOps::Levels<Bits> &levels, const std::uint8_t *packed, std::int64_t supers, const Product &product,
                    float *sums) {
  for (int r = 0; r < Rows; r++) FloatOps::store(sums + r * kLanes, FloatOps::zero());
  if constexpr (FloatOps::kInRegisters) {
    register_micro<Rows, Bits>(levels, packed, supers, product, sums);
  } else {
    constexpr std::int64_t kSupers = 4;
    alignas(64) float buffer[kSupers * kSuperInputs * kLanes];
    for (std::int64_t s = 0; s < supers; s += kSupers) {
      const std::int64_t count = supers - s < kSupers ? supers - s : kSupers;
      for (std::int64_t i = 0; i < count; i++, packed += 64 * Bits) look_up_all<Bits>(levels, packed, buffer + i * kSuperInputs * kLanes);
      memory_micro<Rows>(buffer, s * kSuperInputs, count * kSuperInputs, product, sums);
    }
  }
}

inline std::int64_t inputs_of(const FloatLayer &layer) { return layer.w.supers * kSuperInputs; }

// Rows, or pixels, in nearly equal tiles.
struct Tiles {
  std::int64_t rows, count;
  explicit Tiles(std::int64_t n) : rows(n), count((n + kTileRows - 1) / kTileRows) {}
  std::int64_t begin(std::int64_t tile) const { return rows * tile / count; }
  std::int64_t size(std::int64_t tile) const { return begin(tile + 1) - begin(tile); }
};

template <int Bits>
struct Tile {
  using Block = void (*)(const FloatOps::Levels<Bits> &, const std::uint8_t *, std::int64_t, const Multiply &, float *);
  template <int Rows>
  static Block block_of(std::int64_t rows) {
    if constexpr (Rows < kTileRows) {
      if (rows > Rows) return block_of<Rows + 1>(rows);
    }
    return &multiply_block<Bits, Rows, Multiply>;
  }

  // Blocks begin..end-1 for a tile of packed rows; use(block, sums) gets sums[r * 16 + lane].
  template <class Use>
  static void run(const FloatLayer &layer, const FloatOps::Levels<Bits> &levels, const float *rows, std::int64_t size, std::int64_t begin,
                  std::int64_t end, Use use) {
    const Block block = block_of<1>(size);
    alignas(64) float sums[kTileRows * kLanes];
    for (std::int64_t b = begin; b < end; b++) {
      block(levels, layer.w.packed + static_cast<std::size_t>(b) * layer.w.block_bytes(), layer.w.supers, Multiply{rows}, sums);
      use(b, sums);
    }
  }
};

// ---- rows ------------------------------------------------------------------------------------------------------------------

// `count` rows of g.in_c values to [input][count], zeros behind.
void pack_rows(const FloatLayer &layer, const std::uint8_t *rows, std::int64_t stride, std::int64_t count, float *out) {
  const std::int64_t in = layer.g.in_c, padded = inputs_of(layer);
  for (std::int64_t r = 0; r < count; r++) {
    const auto *row = reinterpret_cast<const float *>(rows + r * stride);
    if (count == 1) std::memcpy(out, row, static_cast<std::size_t>(in) * sizeof(float));
    else
      for (std::int64_t k = 0; k < in; k++) out[k * count + r] = row[k];
    for (std::int64_t k = in; k < padded; k++) out[k * count + r] = 0;
  }
}

// Outputs of block b of rows first..first+size-1.
void store_rows(const FloatLayer &layer, const Task &task, std::int64_t first, std::int64_t size, std::int64_t b, const float *sums) {
  const FloatOps::F scale = FloatOps::load(layer.scale + b * kLanes), bias = FloatOps::load(layer.bias + b * kLanes);
  const std::int64_t left = layer.g.out_c - b * kLanes;
  for (std::int64_t r = 0; r < size; r++, sums += kLanes) {
    auto *out = reinterpret_cast<float *>(task.out + (first + r) * task.out_stride) + b * kLanes;
    const FloatOps::F y = FloatOps::madd(FloatOps::load(sums), scale, bias);
    if (left >= kLanes) {
      FloatOps::store(out, y);
    } else {
      alignas(64) float last[kLanes];
      FloatOps::store(last, y);
      std::memcpy(out, last, static_cast<std::size_t>(left) * sizeof(float));
    }
  }
}

// Tiles begin..end-1, tile behind tile.
void pack_tiles(const FloatLayer &layer, const Task &task, std::int64_t begin, std::int64_t end, float *out) {
  const Tiles tiles(task.samples);
  for (std::int64_t t = begin; t < end; t++) {
    const std::int64_t first = tiles.begin(t);
    pack_rows(layer, task.in + first * task.in_stride, task.in_stride, tiles.size(t), out + first * inputs_of(layer));
  }
}

// Bytes of packed rows, a multiple of 64.
inline std::size_t rows_bytes(const FloatLayer &layer, std::int64_t rows) {
  return static_cast<std::size_t>((rows * inputs_of(layer) * 4 + 63) & ~std::int64_t{63});
}

template <int Bits>
struct Rows {
  static void run(const FloatLayer &layer, const Task &task, const float *rows) {
    const FloatOps::Levels<Bits> levels(layer.levels);
    const Tiles tiles(task.samples);
    std::int64_t begin, end;
    task.share(layer.w.blocks, begin, end);
    for (std::int64_t b = begin; b < end; b++) {
      for (std::int64_t t = 0; t < tiles.count; t++) {
        const std::int64_t first = tiles.begin(t), size = tiles.size(t);
        Tile<Bits>::run(layer, levels, rows + first * inputs_of(layer), size, b, b + 1,
                        [&](std::int64_t block, const float *sums) { store_rows(layer, task, first, size, block, sums); });
      }
    }
  }
};

template <template <int> class Work>
auto width_of(const Weights &w) -> decltype(&Work<1>::run) {
  constexpr decltype(&Work<1>::run) all[] = {&Work<1>::run, &Work<2>::run, &Work<3>::run, &Work<4>::run,
                                             &Work<5>::run, &Work<6>::run, &Work<7>::run, &Work<8>::run};
  return all[w.format->bits - 1];
}

// Codes of 7 and 8 bits are two's complement in all formats that there are; the lowest one is reserved.
bool levels_can(const FloatLayer &layer) {
  const int bits = layer.w.format->bits, half = 1 << (bits - 1);
  for (int c = 0; bits >= 7 && c < 2 * half; c++)
    if (c != half && layer.levels[c] != static_cast<float>(c < half ? c : c - 2 * half)) return false;
  return true;
}

bool gemm_can(const FloatLayer &layer, std::int64_t) { return layer.linear && levels_can(layer); }
bool gemv_can(const FloatLayer &layer, std::int64_t rows) { return rows <= 8 && gemm_can(layer, rows); }
std::size_t gemv_scratch(const FloatLayer &layer, std::int64_t rows, int threads) {
  return static_cast<std::size_t>(threads) * rows_bytes(layer, rows);
}
void gemv_run(const FloatLayer &layer, const Task &task, int) {
  auto *rows = reinterpret_cast<float *>(task.scratch + static_cast<std::size_t>(task.thread) * rows_bytes(layer, task.samples));
  pack_tiles(layer, task, 0, Tiles(task.samples).count, rows);
  width_of<Rows>(layer.w)(layer, task, rows);
}

std::size_t gemm_scratch(const FloatLayer &layer, std::int64_t rows, int) { return rows_bytes(layer, rows); }
void gemm_run(const FloatLayer &layer, const Task &task, int phase) {
  auto *rows = reinterpret_cast<float *>(task.scratch);
  if (phase == 1) return width_of<Rows>(layer.w)(layer, task, rows);
  std::int64_t begin, end;
  task.share(Tiles(task.samples).count, begin, end);
  pack_tiles(layer, task, begin, end, rows);
}

// ---- convolution of planar maps ------------------------------------------------------------------------------------------------

// Gathers the inputs of `size` output pixels from pixel `first` (row by row) of group `group` to [input][size] in the order of
// the packed weights: "rows" layouts run over (kernel_w, channel) in a segment, the others over the channels alone.
void pack_pixels(const FloatLayer &layer, const float *x, std::int64_t group, std::int64_t first, std::int64_t size, float *out) {
  const bsk_conv &g = layer.g;
  const Weights &w = layer.w;
  const std::int64_t channels = g.in_c / g.groups, plane = g.in_h * g.in_w;
  const bool whole_rows = w.segments == g.kernel_h && w.segment == g.kernel_w * channels;
  x += group * channels * plane;
  std::int64_t ih[kTileRows], iw[kTileRows];
  for (std::int64_t r = 0; r < size; r++) {
    ih[r] = (first + r) / g.out_w * g.stride_h - g.pad_top;
    iw[r] = (first + r) % g.out_w * g.stride_w - g.pad_left;
  }
  float *to = out;
  for (std::int64_t kh = 0; kh < g.kernel_h; kh++) {
    for (std::int64_t kw = 0; kw < g.kernel_w; kw++) {
      std::int64_t at[kTileRows];
      bool inside = true, adjacent = true;
      for (std::int64_t r = 0; r < size; r++) {
        const std::int64_t h = ih[r] + kh * g.dilation_h, v = iw[r] + kw * g.dilation_w;
        const bool valid = h >= 0 && h < g.in_h && v >= 0 && v < g.in_w;
        at[r] = valid ? h * g.in_w + v : -1;
        inside = inside && valid;
        adjacent = adjacent && at[r] == at[0] + r;
      }
      const float *from = x;
      if (inside && adjacent && size == kTileRows) {  // nearly all tiles of a layer with stride 1
        for (std::int64_t c = 0; c < channels; c++, from += plane, to += kTileRows) std::memcpy(to, from + at[0], kTileRows * sizeof(float));
      } else {
        for (std::int64_t c = 0; c < channels; c++, from += plane, to += size)
          for (std::int64_t r = 0; r < size; r++) to[r] = at[r] < 0 ? 0 : from[at[r]];
      }
      if (!whole_rows || kw + 1 == g.kernel_w) {  // the end of a segment: up to a whole step
        const std::int64_t rest = (w.segment_steps * kStep - w.segment) * size;
        for (std::int64_t i = 0; i < rest; i++) *to++ = 0;
      }
    }
  }
  for (float *const end = out + inputs_of(layer) * size; to < end;) *to++ = 0;
}

template <int Bits>
struct Pixels {
  static void run(const FloatLayer &layer, const Task &task) {
    const bsk_conv &g = layer.g;
    const Weights &w = layer.w;
    const FloatOps::Levels<Bits> levels(layer.levels);
    auto *rows = reinterpret_cast<float *>(task.scratch + static_cast<std::size_t>(task.thread) * rows_bytes(layer, kTileRows));
    const std::int64_t plane = g.out_h * g.out_w, outputs = g.out_c / g.groups;
    const Tiles tiles(plane);
    // Threads share tiles; where these are few, blocks of outputs (and each thread gathers every tile).
    const bool by_tiles = task.samples * g.groups * tiles.count >= 4 * task.threads;
    std::int64_t begin = 0, end = task.samples * g.groups * tiles.count, block_begin = 0, block_end = w.blocks;
    if (by_tiles) task.share(end, begin, end);
    else task.share(w.blocks, block_begin, block_end);
    if (block_begin == block_end) return;
    for (std::int64_t i = begin; i < end; i++) {
      const std::int64_t tile = i % tiles.count, group = i / tiles.count % g.groups, sample = i / tiles.count / g.groups;
      const std::int64_t first = tiles.begin(tile), size = tiles.size(tile);
      const auto *x = reinterpret_cast<const float *>(task.in + sample * task.in_stride);
      auto *y = reinterpret_cast<float *>(task.out + sample * task.out_stride) + group * outputs * plane + first;
      pack_pixels(layer, x, group, first, size, rows);
      Tile<Bits>::run(layer, levels, rows, size, group * w.blocks + block_begin, group * w.blocks + block_end,
                      [&](std::int64_t block, const float *sums) {
                        const std::int64_t at = (block - group * w.blocks) * kLanes, left = outputs - at;
                        const float *scale = layer.scale + group * outputs + at, *bias = layer.bias + group * outputs + at;
                        for (std::int64_t c = 0; c < kLanes && c < left; c++)
                          for (std::int64_t r = 0; r < size; r++) y[(at + c) * plane + r] = sums[r * kLanes + c] * scale[c] + bias[c];
                      });
    }
  }
};

bool conv_can(const FloatLayer &layer, std::int64_t) { return !layer.linear && !layer.w.depthwise && levels_can(layer); }
std::size_t conv_scratch(const FloatLayer &layer, std::int64_t, int threads) {
  return static_cast<std::size_t>(threads) * rows_bytes(layer, kTileRows);
}
void conv_run(const FloatLayer &layer, const Task &task, int) { width_of<Pixels>(layer.w)(layer, task); }

constexpr FloatKernel f32_gemv{"f32-gemv", gemv_can, gemv_scratch, 1, gemv_run};
constexpr FloatKernel f32_gemm{"f32-gemm", gemm_can, gemm_scratch, 2, gemm_run};
constexpr FloatKernel f32_conv{"f32-conv", conv_can, conv_scratch, 1, conv_run};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
