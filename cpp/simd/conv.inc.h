// Direct convolution on maps, for every instruction set: included behind vec_<isa>.h, micro_<isa>.h and requant.inc.h.
//
// The work is a list of tiles: for each panel of outputs, each sample, each tile of pixels. A thread takes a contiguous part of
// the list, decodes a panel when it meets it, and brings every tile's sums through rule 4 to the output. Windows are read where
// they lie: an output pixel is a pointer, a window is a list of segments from it, the map's border is the padding.

#include "panel.inc.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr std::int64_t round_up(std::int64_t v, std::int64_t to) { return (v + to - 1) / to * to; }
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

constexpr int kTileSums = 2 * kRun * kPanelLanes;   // of the largest tile
constexpr int kSumsSlack = 4 * kLanes;              // finish_quick reads whole quads

// How a map of pixels is cut into tiles: rows into runs of nearly equal length, one or (`paired`) two runs a tile. The runs of a
// pair lie in two neighbouring rows; in the last row of an odd number they lie beside each other, or there is one.
struct Tiles {
  std::int64_t height = 0, runs = 0, base = 0, longer = 0, count = 0;
  bool paired;

  Tiles(std::int64_t height_, std::int64_t width, bool paired_ = true) : height(height_), paired(paired_) {
    runs = (width + kRun - 1) / kRun;
    base = width / runs;
    longer = width % runs;  // the first `longer` runs have base + 1 pixels
    count = paired ? height / 2 * runs : height * runs;
    if (paired && height % 2 != 0) count += (longer + 1) / 2 + (runs - longer + 1) / 2;
  }
  int length(std::int64_t run) const { return static_cast<int>(base + (run < longer)); }
  std::int64_t start(std::int64_t run) const { return run * base + least(run, longer); }
};

// Goes through the tiles in order.
struct Tile {
  std::int64_t y[2], x[2];
  int run, groups;

  Tile(const Tiles &t, std::int64_t index) {
    y[0] = t.paired ? least(index / t.runs * 2, t.height / 2 * 2) : index / t.runs;
    k_ = index - y[0] / (t.paired ? 2 : 1) * t.runs;
    if (t.paired && y[0] + 1 == t.height) {
      const std::int64_t long_pairs = (t.longer + 1) / 2;
      k_ = k_ < long_pairs ? 2 * k_ : t.longer + 2 * (k_ - long_pairs);
    }
    place(t);
  }
  void next(const Tiles &t) {
    k_ += y[0] == y[1] ? groups : 1;
    if (k_ >= t.runs) k_ = 0, y[0] += t.paired ? 2 : 1;
    place(t);
  }

 private:
  std::int64_t k_;  // the first run

  void place(const Tiles &t) {
    run = t.length(k_);
    x[0] = x[1] = t.start(k_);
    y[1] = y[0] + 1;
    groups = 2;
    if (t.paired && y[1] < t.height) return;
    y[1] = y[0];
    if (t.paired && k_ + 1 < t.runs && t.length(k_ + 1) == run) x[1] = t.start(k_ + 1);
    else groups = 1;
  }
};

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

// The panels of a layer in order of output channel.
struct Panels {
  const Weights &w;
  std::int64_t of_group, count;

  explicit Panels(const Weights &weights) : w(weights), of_group((w.blocks + kBlocks - 1) / kBlocks), count(w.groups * of_group) {}
  std::int64_t group(std::int64_t p) const { return p / of_group; }
  std::int64_t block(std::int64_t p) const { return p % of_group * kBlocks; }  // in its group
  std::int64_t channel(std::int64_t p) const { return group(p) * w.outputs + block(p) * kLanes; }
  int outputs(std::int64_t p) const { return static_cast<int>(least(kPanelLanes, w.outputs - block(p) * kLanes)); }
};

// Few decoded weights: all panels are decoded first and each tile meets every panel, so that a pixel's outputs are written
// together and its inputs read once. Many: each panel meets every tile. Threads would all decode the same in the first case.
constexpr std::int64_t kAllPanels = 160 << 10;

struct Direct {
  const ConvLayer &l;
  Panels panels;
  Tiles tiles;
  bool tile_major;
  std::int64_t kept;  // panels in memory

  Direct(const ConvLayer &layer, std::int64_t samples, int threads) : l(layer), panels(layer.w), tiles(l.g.out_h, l.g.out_w) {
    tile_major = panels.count * panel_part() <= kAllPanels && (threads == 1 || samples * tiles.count >= 8 * threads);
    kept = tile_major ? panels.count : 1;
  }
  std::int64_t panel_part() const { return round_up(panel_bytes(l.w) + static_cast<std::int64_t>(sizeof(PanelRequant)), 64); }
  std::int64_t thread_part() const { return round_up(kept * panel_part() + l.w.segments * 8, 64); }
};

inline std::size_t scratch_direct(const ConvLayer &l, std::int64_t samples, int threads) {
  return static_cast<std::size_t>(threads * Direct(l, samples, threads).thread_part());
}

struct DirectThread {
  Direct d;
  const Task &task;
  const ConvLayer &l;
  std::uint8_t *scratch;
  std::int64_t *segments;
  QuickArgs args;
  Vec::Clamp clamp;
  bool fused;
  alignas(64) std::int32_t sums[kTileSums + kSumsSlack];

  DirectThread(const ConvLayer &layer, const Task &t) : d(layer, t.samples, t.threads), task(t), l(layer), clamp(Vec::clamp_of(layer.q)) {
    const bsk_conv &g = l.g;
    const Weights &w = l.w;
    scratch = task.scratch + task.thread * d.thread_part();
    segments = reinterpret_cast<std::int64_t *>(scratch + d.kept * d.panel_part());
    for (std::int64_t s = 0; s < w.segments; ++s) {
      const bool rows = w.segments == g.kernel_h;  // else one segment a tap; with kernel_w == 1 the two agree
      const std::int64_t ky = rows ? s : s / g.kernel_w, kx = rows ? 0 : s % g.kernel_w;
      segments[s] = ky * g.dilation_h * l.in.row() + kx * g.dilation_w * g.in_c;
    }
    args.m.stride = g.stride_w * g.in_c;
    args.m.segments = segments;
    args.m.count = w.segments;
    args.m.steps = w.segment_steps;
    args.m.planes = w.planes;
    args.m.shift = w.shift;
    args.m.sums = sums;
    args.clamp = &clamp;
    args.unit = l.q.unit;
    args.out_stride = l.out.channels * l.out.item;
    if (l.q.residual) args.res_stride = l.res.channels * l.res.item;
    fused = kFused && quick(l.q);
  }

  std::int8_t *panel(std::int64_t slot) const { return reinterpret_cast<std::int8_t *>(scratch + slot * d.panel_part()); }
  PanelRequant &requant(std::int64_t slot) const {
    return *reinterpret_cast<PanelRequant *>(scratch + (slot + 1) * d.panel_part() - static_cast<std::int64_t>(sizeof(PanelRequant)));
  }

  int blocks(std::int64_t p) const { return (d.panels.outputs(p) + kLanes - 1) / kLanes; }
  const std::uint8_t *packed(std::int64_t p) const {
    return l.w.packed + static_cast<std::size_t>(d.panels.group(p) * l.w.blocks + d.panels.block(p)) * l.w.block_bytes();
  }

  void prepare(std::int64_t p, std::int64_t slot) const {
    requant(slot).load(l.q, d.panels.channel(p), d.panels.outputs(p));
    decode_panel(l.w, packed(p), blocks(p), panel(slot));
    clear_padding(l.w, blocks(p), panel(slot));
    MicroArgs m = args.m;
    m.panel = panel(slot);
    set_bursts(m, l.w, l.in_hi + l.in.zero);  // not what another panel's levels allow
    fit_bursts(m, blocks(p), l.in_hi + l.in.zero);
    __builtin_memcpy(requant(slot).burst, m.burst, sizeof m.burst);
  }

  void point_at(std::int64_t p, std::int64_t slot, std::int64_t sample, const Tile &tile) {
    const bsk_conv &g = l.g;
    const std::int64_t channel = requant(slot).channel;
    const std::uint8_t *in = task.in + sample * task.in_stride + d.panels.group(p) * (g.in_c / g.groups);
    std::uint8_t *out = task.out + sample * task.out_stride + channel * l.out.item;
    for (int i = 0; i < tile.groups; ++i) {
      args.m.pixels[i] = in + at(l.in, tile.y[i] * g.stride_h - g.pad_top, tile.x[i] * g.stride_w - g.pad_left);
      args.out[i] = out + at(l.out, tile.y[i], tile.x[i]);
      if (l.q.residual) args.res[i] = task.residual + sample * task.res_stride + channel * l.res.item + at(l.res, tile.y[i], tile.x[i]);
    }
    args.m.panel = panel(slot);
    __builtin_memcpy(args.m.burst, requant(slot).burst, sizeof args.m.burst);
  }

  void compute(std::int64_t p, std::int64_t slot, std::int64_t sample, const Tile &tile) {
    const PanelRequant &r = requant(slot);
    point_at(p, slot, sample, tile);
    if constexpr (kFused) {
      if (fused) {
        args.mult = r.mult, args.offset = r.offset32, args.shift = r.shift, args.res_shift = r.res_shift;
        args.count = r.count();
        quick_kernel(tile.run, tile.groups, r.blocks)(args);
        return;
      }
    }
    micro_kernel(tile.run, tile.groups, r.blocks)(args.m);
    put(r, tile);
  }

  void put(const PanelRequant &r, const Tile &tile) const {
    const Finish finish = r.blocks == 1 ? finish_of<1>(l.q) : finish_of<kBlocks>(l.q);
    for (int i = 0; i < tile.groups; ++i)
      finish(r, sums + i * tile.run * r.blocks * kLanes, {args.out[i], args.res[i], tile.run}, args.out_stride, args.res_stride);
  }

  // A panel's first tile, and the panel into slot 0.
  void start(std::int64_t p, std::int64_t sample, const Tile &tile) {
    if constexpr (kFused) {
      if (can_decode_first(l.w, blocks(p))) {
        requant(0).load(l.q, d.panels.channel(p), d.panels.outputs(p));
        Tile one = tile;
        one.groups = 1;
        point_at(p, 0, sample, one);
        decode_first(l.w, packed(p), one.run, args.m, panel(0));
        put(requant(0), one);
        if (tile.groups == 2) {
          one.y[0] = tile.y[1], one.x[0] = tile.x[1];
          compute(p, 0, sample, one);
        }
        return;
      }
    }
    prepare(p, 0);
    compute(p, 0, sample, tile);
  }
};

inline void run_direct(const ConvLayer &l, const Task &task, int) {
  DirectThread t(l, task);
  const Tiles &tiles = t.d.tiles;
  const std::int64_t panels = t.d.panels.count, all = tiles.count * task.samples;
  std::int64_t unit, end;
  task.share(t.d.tile_major ? all : panels * all, unit, end);
  if (unit == end) return;
  if (t.d.tile_major)
    for (std::int64_t p = 0; p < panels; ++p) t.prepare(p, p);
  while (unit < end) {
    const std::int64_t p = unit / all;  // 0 if tile-major
    bool first = !t.d.tile_major;
    std::int64_t sample = unit % all / tiles.count, index = unit % tiles.count;
    Tile tile(tiles, index);
    for (const std::int64_t stop = least(end, (p + 1) * all); unit < stop; ++unit) {
      if (t.d.tile_major)
        for (std::int64_t each = 0; each < panels; ++each) t.compute(each, each, sample, tile);
      else if (first)
        t.start(p, sample, tile), first = false;
      else
        t.compute(p, 0, sample, tile);
      if (++index == tiles.count) tile = Tile(tiles, index = 0), ++sample;
      else tile.next(tiles);
    }
  }
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
