// Direct convolution on maps, for every instruction set: included behind vec_<isa>.h, micro_<isa>.h and requant.inc.h.
//
// The work is a list of tiles: for each panel of outputs, each sample, each tile of pixels. A thread takes a contiguous part of
// the list, decodes a panel when it meets it, and brings every tile's sums through rule 4 to the output. Windows are read where
// they lie: an output pixel is a pointer, a window is a list of segments from it, the map's border is the padding.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr std::int64_t round_up(std::int64_t v, std::int64_t to) { return (v + to - 1) / to * to; }
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

constexpr int kTileSums = 2 * kRun * kPanelLanes;   // of the largest tile
constexpr int kSumsSlack = 4 * kLanes;              // finish_quick reads whole quads

// How a map of pixels is cut into tiles: rows into runs of nearly equal length, two runs a tile. The runs of a tile lie in two
// neighbouring rows; in the last row of an odd number they lie beside each other, or there is one.
struct Tiles {
  std::int64_t width = 0, pairs = 0, runs = 0, base = 0, longer = 0, single = 0, count = 0;

  Tiles(std::int64_t height, std::int64_t width_) : width(width_) {
    runs = (width + kRun - 1) / kRun;
    base = width / runs;
    longer = width % runs;  // the first `longer` runs have base + 1 pixels
    pairs = height / 2;
    if (height % 2 != 0) single = (longer + 1) / 2 + (runs - longer + 1) / 2;
    count = pairs * runs + single;
  }
  int length(std::int64_t run) const { return static_cast<int>(base + (run < longer)); }
  std::int64_t start(std::int64_t run) const { return run * base + least(run, longer); }
};

struct Tile {
  std::int64_t y[2], x[2];
  int run, groups;

  Tile(const Tiles &t, std::int64_t index) {
    std::int64_t k;
    groups = 2;
    if (index < t.pairs * t.runs) {
      k = index % t.runs;
      y[0] = index / t.runs * 2;
      y[1] = y[0] + 1;
      x[0] = x[1] = t.start(k);
    } else {
      const std::int64_t j = index - t.pairs * t.runs, long_pairs = (t.longer + 1) / 2;
      k = j < long_pairs ? 2 * j : t.longer + 2 * (j - long_pairs);
      if (k + 1 == t.runs || t.length(k) != t.length(k + 1)) groups = 1;
      y[0] = y[1] = 2 * t.pairs;
      x[0] = t.start(k);
      x[1] = groups == 2 ? t.start(k + 1) : x[0];
    }
    run = t.length(k);
  }
};

// `blocks` blocks from `packed` on; writes up to 7 steps behind the panel.
inline void decode_panel(const Weights &w, const std::uint8_t *packed, int blocks, std::int8_t *panel) {
  for (int p = 0; p < w.planes; ++p, panel += w.steps * blocks * 64) {
    const LevelDecoder decode(w, p);
    for (int b = 0; b < blocks; ++b) decode(packed + static_cast<std::size_t>(b) * w.block_bytes(), w.supers, panel + b * 64, blocks * 64);
  }
}

// Zeroes what lies behind the segments' ends: codes there are 0, which is a level like any other.
inline void clear_padding(const Weights &w, int blocks, std::int8_t *panel) {
  const std::int64_t tail = w.segment % kStep;
  if (tail == 0) return;
  for (std::int64_t s = 1; s <= w.planes * w.segments; ++s) {
    std::int8_t *step = panel + (s * w.segment_steps - 1) * blocks * 64;
    for (std::int64_t i = 0; i < blocks * 64; i += kStep)
      for (std::int64_t j = tail; j < kStep; ++j) step[i + j] = 0;
  }
}

inline std::int64_t panel_bytes(const Weights &w) { return (w.planes * w.steps + 8) * kBlocks * 64; }

// A pixel's address in a sample's buffer.
inline std::int64_t at(const Map &m, std::int64_t y, std::int64_t x) { return m.origin() + y * m.row() + x * m.channels * m.item; }

// The windows of all outputs lie in the map and its border.
inline bool fits_border(const ConvLayer &l) {
  const bsk_conv &g = l.g;
  const std::int64_t bottom = (g.out_h - 1) * g.stride_h - g.pad_top + (g.kernel_h - 1) * g.dilation_h - (g.in_h - 1);
  const std::int64_t right = (g.out_w - 1) * g.stride_w - g.pad_left + (g.kernel_w - 1) * g.dilation_w - (g.in_w - 1);
  return g.pad_top <= l.in.border_h && g.pad_left <= l.in.border_w && bottom <= l.in.border_h && right <= l.in.border_w;
}

inline bool maps_serve(const ConvLayer &l) {
  const Requant &q = l.q;
  const auto item = q.res_item < 0 ? 1 : q.res_item;
  return l.in.item == 1 && l.out.item == q.out_item && l.out.channels == l.g.out_c && l.in.channels == l.g.in_c &&
         (q.out_item == 1 || q.out_item == 2 || q.out_item == 4) &&
         (!q.residual || (l.res.item == item && l.res.channels == l.g.out_c)) && fits_border(l) && l.g.out_h > 0 && l.g.out_w > 0;
}

inline bool can_direct(const ConvLayer &l) {
  return maps_serve(l) && !l.w.depthwise && l.w.planes >= 1 && l.w.limit <= kLimit && l.w.segment > 0;
}

inline std::int64_t direct_thread_bytes(const ConvLayer &l) { return round_up(panel_bytes(l.w) + l.w.segments * 8, 64); }

inline std::size_t scratch_direct(const ConvLayer &l, std::int64_t, int threads) {
  return static_cast<std::size_t>(threads * direct_thread_bytes(l));
}

inline void run_direct(const ConvLayer &l, const Task &task, int) {
  const bsk_conv &g = l.g;
  const Weights &w = l.w;
  std::uint8_t *scratch = task.scratch + task.thread * direct_thread_bytes(l);
  auto *panel = reinterpret_cast<std::int8_t *>(scratch);
  auto *segments = reinterpret_cast<std::int64_t *>(scratch + panel_bytes(w));
  for (std::int64_t s = 0; s < w.segments; ++s) {
    const bool rows = w.segments == g.kernel_h;  // else one segment a tap; with kernel_w == 1 the two agree
    const std::int64_t ky = rows ? s : s / g.kernel_w, kx = rows ? 0 : s % g.kernel_w;
    segments[s] = ky * g.dilation_h * l.in.row() + kx * g.dilation_w * g.in_c;
  }
  alignas(64) std::int32_t sums[kTileSums + kSumsSlack];
  MicroArgs a;
  a.stride = g.stride_w * g.in_c;
  a.segments = segments;
  a.count = w.segments;
  a.steps = w.segment_steps;
  a.panel = panel;
  a.planes = w.planes;
  a.shift = w.shift;
  a.sums = sums;

  const Tiles tiles(g.out_h, g.out_w);
  const std::int64_t group_panels = (w.blocks + kBlocks - 1) / kBlocks, per_panel = tiles.count * task.samples;
  const std::int64_t out_pixel = l.out.channels * l.out.item, res_pixel = l.q.residual ? l.res.channels * l.res.item : 0;
  std::int64_t unit, end;
  task.share(w.groups * group_panels * per_panel, unit, end);
  PanelRequant requant;
  while (unit < end) {
    const std::int64_t index = unit / per_panel, group = index / group_panels, block = index % group_panels * kBlocks;
    const int blocks = static_cast<int>(least(kBlocks, w.blocks - block));
    const std::int64_t channel = group * w.outputs + block * kLanes;
    requant.load(l.q, channel, static_cast<int>(least(blocks * kLanes, w.outputs - block * kLanes)));
    decode_panel(w, w.packed + static_cast<std::size_t>(group * w.blocks + block) * w.block_bytes(), blocks, panel);
    clear_padding(w, blocks, panel);
    const Finish finish = blocks == 1 ? finish_of<1>(l.q) : finish_of<kBlocks>(l.q);
    for (const std::int64_t stop = least(end, (index + 1) * per_panel); unit < stop; ++unit) {
      const std::int64_t sample = unit % per_panel / tiles.count;
      const Tile tile(tiles, unit % tiles.count);
      const std::uint8_t *in = task.in + sample * task.in_stride + group * (g.in_c / g.groups);
      for (int i = 0; i < tile.groups; ++i)
        a.pixels[i] = in + at(l.in, tile.y[i] * g.stride_h - g.pad_top, tile.x[i] * g.stride_w - g.pad_left);
      micro_kernel(tile.run, tile.groups, blocks)(a);
      for (int i = 0; i < tile.groups; ++i) {
        PixelRun run;
        run.pixels = tile.run;
        run.out = task.out + sample * task.out_stride + at(l.out, tile.y[i], tile.x[i]) + channel * l.out.item;
        if (l.q.residual) run.res = task.residual + sample * task.res_stride + at(l.res, tile.y[i], tile.x[i]) + channel * l.res.item;
        finish(requant, sums + i * tile.run * blocks * kLanes, run, out_pixel, res_pixel);
      }
    }
  }
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
