// Matrix products of 8-bit rows and packed weights: how rows are packed, work is shared and sums leave through rule 4. Included
// by linear_<isa>.cpp, which defines BITSHIFT_ISA_NAMESPACE and, before the include, the primitives below as `LinearOps`.
//
//  struct LinearOps {
//    static constexpr int kFusedRows;  // most rows of `fused`
//    static constexpr int kTileRows;   // most rows of `tile`, at least 8
//    static constexpr int kTileBlocks; // blocks of 16 outputs of `tile`
//    static constexpr int kPanelBytes; // decoded levels that a thread should have at a time (a part of L1 or L2)
//    // Tables of a layer, ready for look-up.
//    template <int Bits, int Planes> struct Levels { explicit Levels(const Weights &w); };
//    // One block: sums[r * 16 + lane] = sum over supers * 32 inputs of byte * level, planes joined, modulo 2^32. Decodes in
//    // registers. `rows` is [step][Rows][4 bytes], unsigned.
//    template <int Bits, int Planes, int Rows>
//    static void fused(const Levels<Bits, Planes> &, const Weights &, const uint8_t *packed, int64_t supers, const uint8_t *rows,
//                      int32_t *sums);
//    // `supers` superblocks of one block to levels: step z of plane p at levels + p * plane + z * kTileBlocks * 64.
//    template <int Bits, int Planes>
//    static void decode(const Levels<Bits, Planes> &, const uint8_t *packed, int64_t supers, int8_t *levels, int64_t plane);
//    // kTileBlocks blocks: sums[r * kTileBlocks * 16 + output] = (add ? itself : 0) + sum over `steps`.
//    template <int Rows>
//    static void tile(const Weights &, const int8_t *levels, int64_t plane, int64_t steps, const uint8_t *rows, int32_t *sums,
//                     bool add);
//  };
//
// Both kernels read weights as one stream in the order of memory and prefetch nothing: two streams, or a software prefetch at
// any distance and hint, cost a quarter of the bandwidth on Zen 4, whose own prefetchers then fall behind.
#include <cstring>

#include "lists.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

constexpr std::int64_t kSuperInputs = 32;

inline std::int64_t align64(std::int64_t bytes) { return (bytes + 63) & ~std::int64_t{63}; }
inline std::int64_t at_most(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Bytes of a packed row: whole superblocks.
inline std::int64_t row_bytes(const LinearLayer &layer) { return layer.w.supers * kSuperInputs; }

// `count` rows of `in` bytes to [step][count][4], signed ones plus 128; bytes that no input owns are 0, whatever their codes say.
void pack_rows(const LinearLayer &layer, const std::uint8_t *rows, std::int64_t stride, std::int64_t count, std::uint8_t *out) {
  const std::uint32_t flip = layer.signed_in ? 0x80808080u : 0;
  const std::int64_t whole = layer.in / kStep, steps = layer.w.supers * kSuperInputs / kStep;
  for (std::int64_t r = 0; r < count; r++) {
    const std::uint8_t *row = rows + r * stride;
    std::uint8_t *to = out + r * kStep;
    for (std::int64_t s = 0; s < whole; s++) {
      std::uint32_t quad;
      std::memcpy(&quad, row + s * kStep, kStep);
      quad ^= flip;
      std::memcpy(to + s * count * kStep, &quad, kStep);
    }
    for (std::int64_t s = whole; s < steps; s++) {
      std::uint8_t quad[kStep] = {};
      for (std::int64_t j = 0; j < kStep && s * kStep + j < layer.in; j++) quad[j] = row[s * kStep + j] ^ static_cast<std::uint8_t>(flip);
      std::memcpy(to + s * count * kStep, quad, kStep);
    }
  }
}

// Calls Work<Bits, Planes>::run for the layer's width; the pairs are those that a format can have with a limit of 127 or 64.
template <template <int, int> class Work>
auto width_of(const Weights &w) -> decltype(&Work<1, 1>::run) {
  switch (w.format->bits * 4 + w.planes) {
    case 1 * 4 + 1: return &Work<1, 1>::run;
    case 2 * 4 + 1: return &Work<2, 1>::run;
    case 3 * 4 + 1: return &Work<3, 1>::run;
    case 4 * 4 + 1: return &Work<4, 1>::run;
    case 4 * 4 + 2: return &Work<4, 2>::run;
    case 5 * 4 + 1: return &Work<5, 1>::run;
    case 5 * 4 + 2: return &Work<5, 2>::run;
    case 5 * 4 + 3: return &Work<5, 3>::run;
    case 6 * 4 + 1: return &Work<6, 1>::run;
    case 7 * 4 + 1: return &Work<7, 1>::run;
    case 8 * 4 + 1: return &Work<8, 1>::run;
    case 8 * 4 + 2: return &Work<8, 2>::run;
    default: return nullptr;
  }
}

// Rule 4 for `count` outputs of one row from channel `first` on.
void finish(const LinearLayer &layer, const Task &task, std::int64_t row, std::int64_t first, std::int64_t count,
            const std::int32_t *sums) {
  const Requant &q = layer.q;
  for (std::int64_t i = 0; i < count; i++) {
    const std::int64_t c = first + i;
    std::int64_t residual = 0;
    if (q.residual) {
      const std::uint8_t *at = task.residual + row * task.res_stride;
      if (q.res_item == 1) residual = at[c];
      else if (q.res_item == -1) residual = reinterpret_cast<const std::int8_t *>(at)[c];
      else if (q.res_item == 2) residual = reinterpret_cast<const std::int16_t *>(at)[c];
      else residual = reinterpret_cast<const std::int32_t *>(at)[c];
      residual *= std::int64_t{1} << q.res_shift[c];
    }
    std::int64_t v;
    if (q.narrow) {
      v = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[i]) * static_cast<std::uint32_t>(q.mult[c]) +
                                    static_cast<std::uint32_t>(q.offset32[c]) + static_cast<std::uint32_t>(residual));
    } else {
      v = static_cast<std::int64_t>(static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[i]) -
                                                              static_cast<std::uint32_t>(q.correction[c]))) *
              q.mult[c] + q.offset64[c] + residual;
    }
    v >>= q.shift[c];
    v = v < q.lo ? q.lo : v > q.hi ? q.hi : v;
    std::uint8_t *out = task.out + row * task.out_stride;
    if (q.out_item == 1) out[c] = static_cast<std::uint8_t>(v + q.out_zero);
    else if (q.out_item == 2) reinterpret_cast<std::int16_t *>(out)[c] = static_cast<std::int16_t>(v);
    else reinterpret_cast<std::int32_t *>(out)[c] = static_cast<std::int32_t>(v);
  }
}

// ---- gemv: up to kFusedRows rows, a block at a time ---------------------------------------------------------------------

template <int Bits, int Planes>
struct Gemv {
  using Levels = typename LinearOps::Levels<Bits, Planes>;
  using Fused = void (*)(const Levels &, const Weights &, const std::uint8_t *, std::int64_t, const std::uint8_t *, std::int32_t *);

  template <int Rows>
  static Fused fused_of(std::int64_t rows) {
    if constexpr (Rows < LinearOps::kFusedRows) {
      if (rows > Rows) return fused_of<Rows + 1>(rows);
    }
    return &LinearOps::template fused<Bits, Planes, Rows>;
  }

  static void run(const LinearLayer &layer, const Task &task) {
    const Weights &w = layer.w;
    std::uint8_t *rows = task.scratch + task.thread * align64(task.samples * row_bytes(layer));
    pack_rows(layer, task.in, task.in_stride, task.samples, rows);
    const Levels levels(w);
    const Fused fused = fused_of<1>(task.samples);
    const std::size_t block_bytes = w.block_bytes();
    std::int64_t begin, end;
    task.share(w.blocks, begin, end);
    alignas(64) std::int32_t sums[LinearOps::kFusedRows * kLanes];
    for (std::int64_t b = begin; b < end; b++) {
      fused(levels, w, w.packed + static_cast<std::size_t>(b) * block_bytes, w.supers, rows, sums);
      const std::int64_t count = at_most(kLanes, layer.out - b * kLanes);
      for (std::int64_t r = 0; r < task.samples; r++) finish(layer, task, r, b * kLanes, count, sums + r * kLanes);
    }
  }
};

bool can_linear(const LinearLayer &layer) { return layer.w.planes > 0 && layer.w.groups == 1 && layer.w.segments == 1; }
bool gemv_can(const LinearLayer &layer, std::int64_t rows) {
  return rows <= LinearOps::kFusedRows && can_linear(layer) && width_of<Gemv>(layer.w);
}
std::size_t gemv_scratch(const LinearLayer &layer, std::int64_t rows, int threads) {
  return static_cast<std::size_t>(threads * align64(rows * row_bytes(layer)));
}
void gemv_run(const LinearLayer &layer, const Task &task, int) { width_of<Gemv>(layer.w)(layer, task); }

// ---- gemm: phase 0 packs the rows in tiles, phase 1 decodes a panel of outputs and multiplies all tiles with it ---------------

// Rows in nearly equal tiles: 16 rows are 8 + 8, not 14 + 2.
struct Tiles {
  std::int64_t rows, count;
  explicit Tiles(std::int64_t n) : rows(n), count((n + LinearOps::kTileRows - 1) / LinearOps::kTileRows) {}
  std::int64_t begin(std::int64_t tile) const { return rows * tile / count; }
};

// What a thread keeps behind the packed rows, which all threads share.
struct GemmScratch {
  static constexpr std::int64_t kOutputs = LinearOps::kTileBlocks * kLanes;
  std::int64_t rows, panel, sums;  // bytes
  // Superblocks along the inputs that are decoded at a time; `panel` holds those of all planes.
  std::int64_t depth;

  GemmScratch(const LinearLayer &layer, std::int64_t n) {
    const std::int64_t fit = LinearOps::kPanelBytes / (kSuperInputs * kOutputs * layer.w.planes);
    depth = at_most(fit, layer.w.supers);
    rows = align64(n * row_bytes(layer));
    panel = depth * kSuperInputs * kOutputs * layer.w.planes;
    sums = align64(n * kOutputs * 4);
  }
  std::int64_t bytes(int threads) const { return rows + threads * (panel + sums); }
};

template <int Bits, int Planes>
struct Gemm {
  using Levels = typename LinearOps::Levels<Bits, Planes>;
  static void run(const LinearLayer &layer, const Task &task);
};

using TileKernel = void (*)(const Weights &, const std::int8_t *, std::int64_t, std::int64_t, const std::uint8_t *, std::int32_t *,
                            bool);
template <int Rows>
TileKernel tile_of(std::int64_t rows) {
  if constexpr (Rows < LinearOps::kTileRows) {
    if (rows > Rows) return tile_of<Rows + 1>(rows);
  }
  return &LinearOps::template tile<Rows>;
}

template <int Bits, int Planes>
void Gemm<Bits, Planes>::run(const LinearLayer &layer, const Task &task) {
  constexpr std::int64_t kOutputs = GemmScratch::kOutputs;
  constexpr std::int64_t kSteps = kSuperInputs / kStep;
  const Weights &w = layer.w;
  const Tiles tiles(task.samples);
  const GemmScratch parts(layer, task.samples);
  const std::uint8_t *rows = task.scratch;
  auto *panel = reinterpret_cast<std::int8_t *>(task.scratch + parts.rows + task.thread * (parts.panel + parts.sums));
  auto *sums = reinterpret_cast<std::int32_t *>(panel + parts.panel);
  const std::int64_t plane = parts.depth * kSuperInputs * kOutputs;
  const Levels levels(w);
  const std::size_t block_bytes = w.block_bytes(), super_bytes = static_cast<std::size_t>(64 * Bits);

  std::int64_t begin, end;
  task.share((w.blocks + LinearOps::kTileBlocks - 1) / LinearOps::kTileBlocks, begin, end);
  for (std::int64_t at = begin; at < end; at++) {
    const std::int64_t block = at * LinearOps::kTileBlocks, blocks = at_most(LinearOps::kTileBlocks, w.blocks - block);
    for (std::int64_t super = 0; super < w.supers; super += parts.depth) {
      const std::int64_t depth = at_most(parts.depth, w.supers - super);
      for (std::int64_t b = 0; b < blocks; b++) {  // a block that does not exist keeps what the panel held: its sums go nowhere
        LinearOps::template decode<Bits, Planes>(
            levels, w.packed + static_cast<std::size_t>(block + b) * block_bytes + static_cast<std::size_t>(super) * super_bytes, depth,
            panel + b * 64, plane);
      }
      for (std::int64_t t = 0; t < tiles.count; t++) {
        const std::int64_t first = tiles.begin(t), count = tiles.begin(t + 1) - first;
        tile_of<1>(count)(w, panel, plane, depth * kSteps, rows + first * row_bytes(layer) + super * kSuperInputs * count,
                          sums + first * kOutputs, super != 0);
      }
    }
    const std::int64_t outputs = at_most(kOutputs, layer.out - block * kLanes);
    for (std::int64_t r = 0; r < task.samples; r++) finish(layer, task, r, block * kLanes, outputs, sums + r * kOutputs);
  }
}

bool gemm_can(const LinearLayer &layer, std::int64_t) { return can_linear(layer) && width_of<Gemm>(layer.w); }
std::size_t gemm_scratch(const LinearLayer &layer, std::int64_t rows, int threads) {
  return static_cast<std::size_t>(GemmScratch(layer, rows).bytes(threads));
}
void gemm_run(const LinearLayer &layer, const Task &task, int phase) {
  if (phase == 1) return width_of<Gemm>(layer.w)(layer, task);
  const Tiles tiles(task.samples);
  std::int64_t begin, end;
  task.share(tiles.count, begin, end);
  for (std::int64_t t = begin; t < end; t++) {
    const std::int64_t first = tiles.begin(t);
    pack_rows(layer, task.in + first * task.in_stride, task.in_stride, tiles.begin(t + 1) - first,
              task.scratch + first * row_bytes(layer));
  }
}

constexpr LinearKernel gemv{"gemv", gemv_can, gemv_scratch, 1, gemv_run};
constexpr LinearKernel gemm{"gemm", gemm_can, gemm_scratch, 2, gemm_run};

}  // namespace

extern const LinearKernel *const linear_kernels[] = {&gemv, &gemm, nullptr};

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
