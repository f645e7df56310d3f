// Depthwise convolution: one input channel a group, any number of outputs of each. Included by depthwise_<isa>.cpp behind
// requant.inc.h and its Engine, in namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE (one of its own: panels of one block).
//
// An Engine computes a tile, `tile` output rows of a block of 16 channels, from `rows` rows of taps:
//   explicit Engine(const ConvLayer &);                 fields tile, rows, and weight_bytes, a block's, a multiple of 64
//   std::size_t scratch_bytes() const;                  what run() works with
//   std::int64_t row_offset(std::int64_t k, std::int64_t last) const;
//                                                       bytes from the tile's first tap to tap row k; `last` counts the input
//                                                       rows from there to the last that outputs of the map need
//   void decode(std::int64_t block, std::uint8_t *weights) const;
//   void run(const std::uint8_t *weights, const std::uint8_t *const *rows, const PanelRequant &, const TileRuns &,
//            std::uint8_t *scratch) const;              rows[k]: tap row k of output column 0, at channel 0
//
// Work is cut into (group of blocks, sample, tile): a group is what fills a cache line of a pixel, decoded once by each thread
// that has a piece of it, and its blocks take turns on a tile while the tile's input rows are in the first cache.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {
namespace {

constexpr std::int64_t kGroup = 4;  // blocks

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

// Where a thread keeps what it works with.
struct Workspace {
  std::size_t weights, panels, own, rows, bytes;

  explicit Workspace(const Engine &engine) {
    weights = 0;
    panels = weights + static_cast<std::size_t>(kGroup) * engine.weight_bytes;
    own = panels + static_cast<std::size_t>(kGroup) * aligned(sizeof(PanelRequant));
    rows = own + aligned(engine.scratch_bytes());
    bytes = rows + aligned(static_cast<std::size_t>(engine.rows) * sizeof(const std::uint8_t *));
  }
};

bool inside(std::int64_t size, std::int64_t border, std::int64_t out, std::int64_t kernel, std::int64_t stride,
            std::int64_t dilation, std::int64_t pad) {
  return pad <= border && (out - 1) * stride - pad + (kernel - 1) * dilation < size + border;
}

bool can(const ConvLayer &layer) {
  const bsk_conv &g = layer.g;
  return layer.w.depthwise && layer.w.planes > 0 && layer.in.item == 1 &&
         inside(g.in_h, layer.in.border_h, g.out_h, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top) &&
         inside(g.in_w, layer.in.border_w, g.out_w, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left);
}

std::size_t scratch(const ConvLayer &layer, std::int64_t, int threads) {
  return Workspace(Engine(layer)).bytes * static_cast<std::size_t>(threads);
}

void run(const ConvLayer &layer, const Task &task, int) {
  const bsk_conv &g = layer.g;
  const Engine engine(layer);
  const Workspace space(engine);
  std::uint8_t *const base = task.scratch + static_cast<std::size_t>(task.thread) * space.bytes;
  const std::uint8_t **const rows = reinterpret_cast<const std::uint8_t **>(base + space.rows);
  const auto panel = [&](std::int64_t b) {
    return reinterpret_cast<PanelRequant *>(base + space.panels + static_cast<std::size_t>(b) * aligned(sizeof(PanelRequant)));
  };
  const std::int64_t res_item = layer.q.res_item < 0 ? 1 : layer.q.res_item;
  const std::int64_t groups = (layer.w.blocks + kGroup - 1) / kGroup, tiles = (g.out_h + engine.tile - 1) / engine.tile;

  std::int64_t begin, end, loaded = -1;
  task.share(groups * task.samples * tiles, begin, end);
  for (std::int64_t piece = begin; piece < end; piece++) {
    const std::int64_t tile = piece % tiles, sample = piece / tiles % task.samples, group = piece / tiles / task.samples;
    const std::int64_t first = group * kGroup;
    const std::int64_t blocks = layer.w.blocks - first < kGroup ? layer.w.blocks - first : kGroup;
    if (group != loaded) {
      for (std::int64_t b = 0; b < blocks; b++) {
        const std::int64_t left = g.out_c - (first + b) * kLanes;
        engine.decode(first + b, base + static_cast<std::size_t>(b) * engine.weight_bytes);
        load_panel(*panel(b), layer.q, (first + b) * kLanes, static_cast<int>(left < kLanes ? left : kLanes));
      }
      loaded = group;
    }
    const std::int64_t y = tile * engine.tile, valid = g.out_h - y < engine.tile ? g.out_h - y : engine.tile;
    const std::int64_t last = (valid - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h;
    const std::uint8_t *const corner = task.in + sample * task.in_stride + layer.in.origin() +
                                       (y * g.stride_h - g.pad_top) * layer.in.row() - g.pad_left * g.in_c;
    for (std::int64_t k = 0; k < engine.rows; k++) rows[k] = corner + engine.row_offset(k, last);
    TileRuns to;
    to.valid = valid;
    to.out_row = layer.out.row();
    to.out_pixel = g.out_c * layer.q.out_item;
    to.res_row = layer.res.row();
    to.res_pixel = g.out_c * res_item;
    for (std::int64_t b = 0; b < blocks; b++) {
      const std::int64_t channel = (first + b) * kLanes;
      to.out = task.out + sample * task.out_stride + layer.out.origin() + y * to.out_row + channel * layer.q.out_item;
      if (layer.q.residual)
        to.res = task.residual + sample * task.res_stride + layer.res.origin() + y * to.res_row + channel * res_item;
      engine.run(base + static_cast<std::size_t>(b) * engine.weight_bytes, rows, *panel(b), to, base + space.own);
    }
  }
}

}  // namespace
}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
