// Matrix products of 8-bit rows and packed weights: how rows are packed, work is shared and sums leave through rule 4. Included
// by linear_<isa>.cpp behind vec_<isa>.h, micro_<isa>.h (panels and micro-kernels are those of the convolutions: micro.h) and
// requant.inc.h. That file defines BITSHIFT_ISA_NAMESPACE and, in an unnamed namespace, what is left of an instruction set:
//
//  struct LinearOps {
//    static constexpr int fused_rows(int bits, int planes);  // most rows of `micro`: their sums, one a plane, should fit the registers
//    // Tables of a layer, ready for look-up.
//    template <int Bits, int Planes> struct Levels { explicit Levels(const Weights &w); };
//    // One block: sums[r * 16 + lane] = sum over supers * 32 inputs of byte * level, planes joined, modulo 2^32. Decodes in
//    // registers. `rows` is [step][Rows][4 bytes], unsigned. noinline, and named *micro*: tools/check_spills.py reads its code.
//    template <int Bits, int Planes, int Rows>
//    static void micro(const Levels<Bits, Planes> &, const Weights &, const uint8_t *packed, int64_t supers, const uint8_t *rows,
//                      int32_t *sums);
//  };
//
// Weights are read as one stream in the order of memory, and nothing is prefetched: two streams, or software prefetches at any
// distance and with any hint, cost a quarter of the bandwidth on Zen 4, whose own prefetchers then fall behind.
#include <cstring>

#include "panel.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

constexpr std::int64_t kSuperInputs = 32;

inline std::int64_t align64(std::int64_t bytes) { return (bytes + 63) & ~std::int64_t{63}; }
inline std::int64_t at_most(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// `count` rows of `in` bytes to [step][count][4], signed ones plus 128; bytes that no input owns are 0, whatever their codes say.
void pack_rows(const LinearLayer &layer, const std::uint8_t *rows, std::int64_t stride, std::int64_t count, std::int64_t steps,
               std::uint8_t *out) {
  const std::uint32_t flip = layer.signed_in ? 0x80808080u : 0;
  const std::int64_t whole = layer.in / kStep;
  for (std::int64_t r = 0; r < count; r++) {
    const std::uint8_t *row = rows + r * stride;
    std::uint8_t *to = out + r * kStep;
    const auto pack = [&](std::int64_t next) {
      for (std::int64_t s = 0; s < whole; s++) {
        std::uint32_t quad;
        std::memcpy(&quad, row + s * kStep, kStep);
        quad ^= flip;
        std::memcpy(to + s * next, &quad, kStep);
      }
    };
    if (count == 1) pack(kStep);  // whole vectors
    else pack(count * kStep);
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

// The entries of Requant from output channel `first` on, for requant_any. They are padded, so whole vectors may be loaded.
struct ChannelRequant {
  const std::int32_t *mult, *offset32, *shift, *res_shift, *correction;
  const std::int64_t *offset64;
  const Requant *q;
  int blocks, lanes;  // of the panel; outputs in its last block

  ChannelRequant(const Requant &from, std::int64_t first, std::int64_t outputs)
      : mult(from.mult + first), offset32(from.narrow ? from.offset32 + first : nullptr), shift(from.shift + first),
        res_shift(from.residual ? from.res_shift + first : shift), correction(from.narrow ? nullptr : from.correction + first),
        offset64(from.narrow ? nullptr : from.offset64 + first), q(&from), blocks(static_cast<int>((outputs + kLanes - 1) / kLanes)),
        lanes(static_cast<int>(outputs) - (blocks - 1) * kLanes) {}
};

// Sums of the panel that begins at output `first`, for one row.
inline void finish(const ChannelRequant &panel, const Task &task, std::int64_t row, std::int64_t first, const std::int32_t *sums) {
  const Requant &q = *panel.q;
  std::uint8_t *out = task.out + row * task.out_stride + first * q.out_item;
  const int item = q.res_item < 0 ? 1 : q.res_item;
  const std::uint8_t *res = q.residual ? task.residual + row * task.res_stride + first * item : nullptr;
  alignas(64) std::uint8_t last[kBlocks * kLanes * 4];
  if (q.residual && panel.lanes < kLanes) {  // whole vectors are loaded, and nothing promises that rows have more behind them
    std::memcpy(last, res, static_cast<std::size_t>(((panel.blocks - 1) * kLanes + panel.lanes) * item));
    res = last;
  }
  for (int b = 0; b < panel.blocks; b++) requant_any(Vec::load(sums + b * kLanes), panel, b, out, res);
}

// ---- gemv and fused: blocks are decoded in registers, for up to fused_rows rows at a time -------------------------------------

// Rows in nearly equal tiles of at most `most`: 16 rows are 8 + 8, not 14 + 2.
struct Tiles {
  std::int64_t rows, count;
  Tiles(std::int64_t n, std::int64_t most) : rows(n), count((n + most - 1) / most) {}
  std::int64_t begin(std::int64_t tile) const { return rows * tile / count; }
  std::int64_t size(std::int64_t tile) const { return begin(tile + 1) - begin(tile); }
};

// The tiles of `fused`.
inline Tiles fused_tiles(const LinearLayer &layer, std::int64_t rows) { return {rows, LinearOps::fused_rows(layer.w.format->bits, layer.w.planes)}; }

inline std::int64_t fused_steps(const LinearLayer &layer) { return layer.w.supers * kSuperInputs / kStep; }
// Bytes of `rows` packed rows, whole superblocks.
inline std::int64_t fused_bytes(const LinearLayer &layer, std::int64_t rows) { return rows * fused_steps(layer) * kStep; }

template <int Bits, int Planes>
struct Fused {
  static constexpr int kRows = LinearOps::fused_rows(Bits, Planes);
  using Levels = typename LinearOps::Levels<Bits, Planes>;
  using Micro = void (*)(const Levels &, const Weights &, const std::uint8_t *, std::int64_t, const std::uint8_t *, std::int32_t *);

  template <int Rows>
  static Micro micro_of(std::int64_t rows) {
    if constexpr (Rows < kRows) {
      if (rows > Rows) return micro_of<Rows + 1>(rows);
    }
    return &LinearOps::template micro<Bits, Planes, Rows>;
  }

  // This thread's blocks, all rows of which lie packed, tile behind tile, at `rows`.
  static void run(const LinearLayer &layer, const Task &task, const std::uint8_t *rows) {
    const Weights &w = layer.w;
    const Levels levels(w);
    const Tiles tiles(task.samples, kRows);
    std::int64_t begin, end;
    task.share(w.blocks, begin, end);
    alignas(64) std::int32_t sums[kRows * kLanes];
    for (std::int64_t b = begin; b < end; b++) {
      const std::uint8_t *packed = w.packed + static_cast<std::size_t>(b) * w.block_bytes();
      const ChannelRequant requant(layer.q, b * kLanes, at_most(kLanes, layer.out - b * kLanes));
      for (std::int64_t t = 0; t < tiles.count; t++) {  // the block stays in L1
        const std::int64_t first = tiles.begin(t), size = tiles.size(t);
        micro_of<1>(size)(levels, w, packed, w.supers, rows + fused_bytes(layer, first), sums);
        for (std::int64_t r = 0; r < size; r++) finish(requant, task, first + r, b * kLanes, sums + r * kLanes);
      }
    }
  }
};

bool fused_can(const LinearLayer &layer, std::int64_t) { return layer.w.planes > 0 && width_of<Fused>(layer.w); }
void fused_pack(const LinearLayer &layer, const Task &task, std::int64_t begin, std::int64_t end, std::uint8_t *packed) {
  const Tiles tiles = fused_tiles(layer, task.samples);
  for (std::int64_t t = begin; t < end; t++) {
    const std::int64_t first = tiles.begin(t);
    pack_rows(layer, task.in + first * task.in_stride, task.in_stride, tiles.size(t), fused_steps(layer), packed + fused_bytes(layer, first));
  }
}

// Few rows: each thread packs its own, which costs less than to wait for one that does.
bool gemv_can(const LinearLayer &layer, std::int64_t rows) { return rows <= 8 && fused_can(layer, rows); }
std::size_t gemv_scratch(const LinearLayer &layer, std::int64_t rows, int threads) {
  return static_cast<std::size_t>(threads * align64(fused_bytes(layer, rows)));
}
void gemv_run(const LinearLayer &layer, const Task &task, int) {
  std::uint8_t *rows = task.scratch + task.thread * align64(fused_bytes(layer, task.samples));
  fused_pack(layer, task, 0, fused_tiles(layer, task.samples).count, rows);
  width_of<Fused>(layer.w)(layer, task, rows);
}

// Many rows: phase 0 packs them, phase 1 multiplies.
std::size_t fused_scratch(const LinearLayer &layer, std::int64_t rows, int) { return static_cast<std::size_t>(fused_bytes(layer, rows)); }
void fused_run(const LinearLayer &layer, const Task &task, int phase) {
  if (phase == 1) return width_of<Fused>(layer.w)(layer, task, task.scratch);
  std::int64_t begin, end;
  task.share(fused_tiles(layer, task.samples).count, begin, end);
  fused_pack(layer, task, begin, end, task.scratch);
}

// ---- gemm: phase 0 copies the rows, phase 1 decodes a panel of outputs and multiplies all rows with it ------------------------

// Where things lie in scratch: the rows, which all threads share, and for each thread a panel and the sums of a tile.
struct GemmScratch {
  std::int64_t row, rows, panel, thread;  // bytes: a row to the next, all rows, a panel, what a thread owns

  GemmScratch(const LinearLayer &layer, std::int64_t n) {
    // An odd number of cache lines from a row to the next: the rows of a tile then never compete for the same few sets.
    row = align64(layer.w.steps * kStep) | 64;
    rows = n * row;
    panel = panel_bytes(layer.w);
    thread = panel + (2 * kRun + 2) * kBlocks * kLanes * 4;
  }
};

bool gemm_can(const LinearLayer &layer, std::int64_t) { return layer.w.planes > 0; }
std::size_t gemm_scratch(const LinearLayer &layer, std::int64_t rows, int threads) {
  const GemmScratch parts(layer, rows);
  return static_cast<std::size_t>(parts.rows + threads * parts.thread);
}

void gemm_rows(const LinearLayer &layer, const Task &task) {
  const GemmScratch parts(layer, task.samples);
  std::int64_t begin, end;
  task.share(task.samples, begin, end);
  for (std::int64_t r = begin; r < end; r++)
    pack_rows(layer, task.in + r * task.in_stride, task.in_stride, 1, layer.w.steps, task.scratch + r * parts.row);
}

void gemm_panels(const LinearLayer &layer, const Task &task) {
  const Weights &w = layer.w;
  const GemmScratch parts(layer, task.samples);
  std::uint8_t *mine = task.scratch + parts.rows + task.thread * parts.thread;
  auto *panel = reinterpret_cast<std::int8_t *>(mine);
  const std::int64_t segment = 0;
  MicroArgs args;
  args.stride = parts.row;
  args.segments = &segment;
  args.steps = w.steps;
  args.panel = panel;
  args.planes = w.planes;
  args.shift = w.shift;
  set_bursts(args, w, 255);
  args.sums = reinterpret_cast<std::int32_t *>(mine + parts.panel);

  const Tiles tiles(task.samples, 2 * kRun);
  std::int64_t begin, end;
  task.share((w.blocks + kBlocks - 1) / kBlocks, begin, end);
  for (std::int64_t p = begin; p < end; p++) {
    const std::int64_t block = p * kBlocks, first_output = block * kLanes;
    const int blocks = static_cast<int>(at_most(kBlocks, w.blocks - block));
    decode_panel(w, w.packed + static_cast<std::size_t>(block) * w.block_bytes(), blocks, panel);
    const ChannelRequant requant(layer.q, first_output, at_most(kBlocks * kLanes, layer.out - first_output));
    for (std::int64_t t = 0; t < tiles.count; t++) {
      const std::int64_t first = tiles.begin(t), count = tiles.size(t);
      const int groups = count > 1 ? 2 : 1, run = static_cast<int>((count + groups - 1) / groups);
      const std::int64_t second = first + count - run;  // an odd count has a row in both runs
      args.pixels[0] = task.scratch + first * parts.row;
      args.pixels[1] = task.scratch + second * parts.row;
      micro_kernel(run, groups, blocks)(args);
      for (int g = 0; g < groups; g++)
        for (int m = 0; m < run; m++)
          finish(requant, task, (g ? second : first) + m, first_output, args.sums + (g * run + m) * blocks * kLanes);
    }
  }
}

void gemm_run(const LinearLayer &layer, const Task &task, int phase) {
  if (phase == 0) gemm_rows(layer, task);
  else gemm_panels(layer, task);
}

[[maybe_unused]] constexpr LinearKernel gemv{"gemv", gemv_can, gemv_scratch, 1, gemv_run};
[[maybe_unused]] constexpr LinearKernel fused{"fused", fused_can, fused_scratch, 2, fused_run};
[[maybe_unused]] constexpr LinearKernel gemm{"gemm", gemm_can, gemm_scratch, 2, gemm_run};

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
