// Exact Winograd for 3x3 kernels with stride 1: F(2,3) along the width, and F(2x2,3x3). Included behind conv.inc.h.
//
// F(2,3): two outputs of a row from 4 inputs d and 3 weights g with 4 products instead of 6: with
//   v = (d0-d2, d1+d2, d2-d1, d1-d3),  u = 2 G g = (2 g0, g0+g1+g2, g0-g1+g2, 2 g2),  m = u v summed over the inputs,
//   2 y0 = m0+m1+m2,  2 y1 = m1-m2-m3.
// Nothing is divided but the result, by 2 and without rest. The 2-d form does the same along both axes (16 points, 4 y).
//
// Bytes. Stored inputs are q + zero with zero 0 or 128. Sums and differences are taken modulo 256 and brought to 0..255 by one
// addition: a point with any difference has values in -R..R (2-d: -2R..2R), R = in_hi - in_lo, and gets + 128; the point of sums
// only has 2 lo..2 hi (4 lo..4 hi; the zeros, 256 or 512, vanish) and gets -2 lo (-4 lo). So 2 R <= 255 (4 R <= 255) suffices.
// What was added comes off the result: it is the added value times the sum of the point's weights, known from the tap sums.
// Garbage behind the map's border reaches only outputs that do not exist (d3 is in y1 alone).
//
// Weights are transformed for each call, a panel at a time: U takes 16/9 (12/9) of the weights' number in bytes for 32 outputs.
// The inputs' V takes 4 times (2 times) their size. If V of all samples is small, all threads fill it together in phase 0 and
// share panels and tiles in phase 1; else each thread goes through its part of the tile rows in blocks whose V stays in cache.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

constexpr std::int64_t kSharedV = 640 << 10, kBlockV = 400 << 10, kAllU = 256 << 10, kSkip = 320;

// Unaligned vectors of bytes; arithmetic wraps.
template <int N>
struct ByteVector {
  typedef std::uint8_t V __attribute__((vector_size(N)));
  static V load(const std::uint8_t *p) {
    V v;
    __builtin_memcpy(&v, p, N);
    return v;
  }
  static void store(std::uint8_t *p, V v) { __builtin_memcpy(p, &v, N); }
  static V set(std::uint8_t b) { return V{} + b; }
};

template <class T, int>
struct OfTemplate {
  using Type = T;
};

// What one V holds at a time: `rows` tile rows from `row` on of `samples` samples from `sample` on.
struct Unit {
  std::int64_t sample = 0, samples = 0, row = 0, rows = 0;
};

// How a call is cut up.
template <int Dims>
struct Winograd {
  static constexpr int kPoints = Dims == 1 ? 4 : 16;
  static constexpr int kSegments = Dims == 1 ? 3 : 1;  // rows of V in a product: in 1-d the kernel's rows stay a sum
  static constexpr int kTileH = Dims == 1 ? 1 : 2;     // a tile is 2 outputs wide
  static constexpr int kSums = kPoints * kTileSums;

  const ConvLayer &l;
  std::int64_t tile_rows, tile_cols, samples;
  std::int64_t v_row, u_panel, panels;      // bytes, bytes, count
  bool shared, all_u;
  std::int64_t unit_samples, unit_rows, row_units, units;

  Winograd(const ConvLayer &layer, std::int64_t samples_, int threads) : l(layer), samples(samples_) {
    tile_rows = (l.g.out_h + kTileH - 1) / kTileH;
    tile_cols = (l.g.out_w + 1) / 2;
    v_row = kPoints * tile_cols * l.g.in_c;
    u_panel = kPoints * point_bytes(kBlocks);
    panels = (l.w.blocks + kBlocks - 1) / kBlocks;
    shared = samples * v_bytes(tile_rows) <= kSharedV;
    unit_samples = samples;
    row_units = 1;
    if (!shared) {
      unit_samples = least(kBlockV / v_bytes(tile_rows), (samples + threads - 1) / threads);
      if (unit_samples == 0) {
        unit_samples = 1;
        while (row_units < tile_rows && v_bytes((tile_rows + row_units - 1) / row_units) > kBlockV) ++row_units;
        row_units = least(tile_rows, (row_units + threads - 1) / threads * threads);
      }
    }
    unit_rows = (tile_rows + row_units - 1) / row_units;
    row_units = (tile_rows + unit_rows - 1) / unit_rows;
    units = (samples + unit_samples - 1) / unit_samples * row_units;
    all_u = !shared && panels * u_panel <= kAllU;
  }
  Unit unit(std::int64_t i) const {
    Unit u;
    u.sample = i / row_units * unit_samples;
    u.samples = least(unit_samples, samples - u.sample);
    u.row = i % row_units * unit_rows;
    u.rows = least(unit_rows, tile_rows - u.row);
    return u;
  }
  // Runs of few tiles in pairs; others alone, so that the sums of all points stay in L1.
  Tiles tiles(const Unit &u) const { return Tiles(u.rows, tile_cols, 2 * tile_cols <= kRun + 1); }
  // From a point of U to the next: kSkip more than there is, or powers of two would bring all points into one set of the cache.
  std::int64_t point_bytes(int blocks) const { return kSegments * l.g.in_c * blocks * kLanes + kSkip; }
  // Rows of V: in 1-d rows of the map, two more than outputs; in 2-d tile rows.
  static std::int64_t v_rows(std::int64_t rows) { return rows + kSegments - 1; }
  std::int64_t v_bytes(std::int64_t rows) const { return round_up(v_rows(rows) * v_row + 64, 64); }

  // Scratch: V (one, or one a thread), then for each thread U, the decoded panel, sums, outputs.
  std::int64_t v_part() const { return unit_samples * v_bytes(unit_rows); }
  std::int64_t u_part() const { return (all_u ? panels : 1) * u_panel; }
  std::int64_t thread_part() const { return round_up(u_part() + panel_bytes(l.w) + (kSums + kOutputSums) * 4, 64); }
  std::int64_t bytes(int threads) const { return (shared ? 1 : threads) * v_part() + threads * thread_part(); }
  static constexpr int kOutputSums = kTileH * 2 * kRun * kPanelLanes + kSumsSlack;
};

// ---- inputs ---------------------------------------------------------------------------------------------------------------

// One row of V from the map's row (1-d) or four rows (2-d) from `in` on, N channels at a time; the last N may overlap.
template <int Dims, int N>
inline void transform_row(const std::uint8_t *in, std::int64_t row, std::int64_t channels, std::int64_t cols, std::uint8_t sum_offset,
                          std::uint8_t *v) {
  using B = ByteVector<N>;
  using V = typename B::V;
  constexpr int kRows = Dims == 1 ? 1 : 4;
  const std::int64_t point = cols * channels;
  const V half = B::set(128), sum = B::set(sum_offset);
  for (std::int64_t c = 0; c < channels; c += N) {
    if (c + N > channels) c = channels - N;
    V col[4][kRows];  // columns of the tile after the pass along the height; the next tile shares two of them
    const auto column = [&](std::int64_t x, V (&out)[kRows]) __attribute__((always_inline)) {
      const std::uint8_t *p = in + x * channels + c;
      if constexpr (Dims == 1) {
        out[0] = B::load(p);
      } else {
        const V d0 = B::load(p), d1 = B::load(p + row), d2 = B::load(p + 2 * row), d3 = B::load(p + 3 * row);
        out[0] = d0 - d2, out[1] = d1 + d2, out[2] = d2 - d1, out[3] = d1 - d3;
      }
    };
    column(0, col[2]);
    column(1, col[3]);
    std::uint8_t *to = v + c;
    for (std::int64_t t = 0; t < cols; ++t, to += channels) {
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) col[0][i] = col[2][i], col[1][i] = col[3][i];
      column(2 * t + 2, col[2]);
      column(2 * t + 3, col[3]);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        std::uint8_t *o = to + 4 * i * point;
        const V middle = Dims == 1 || i == 1 ? sum : half;
        B::store(o, col[0][i] - col[2][i] + half);
        B::store(o + point, col[1][i] + col[2][i] + middle);
        B::store(o + 2 * point, col[2][i] - col[1][i] + half);
        B::store(o + 3 * point, col[1][i] - col[3][i] + half);
      }
    }
  }
}

// V rows [begin, end) of a unit, counted over its samples.
template <int Dims>
inline void transform_inputs(const Winograd<Dims> &wino, const Task &task, const Unit &unit, std::int64_t begin, std::int64_t end,
                             std::uint8_t *v) {
  const ConvLayer &l = wino.l;
  const std::int64_t rows = wino.v_rows(unit.rows), channels = l.g.in_c;
  const auto offset = static_cast<std::uint8_t>(-l.in_lo * (Dims == 1 ? 2 : 4));
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t s = i / rows, r = i % rows;
    const std::int64_t y = (unit.row + r) * wino.kTileH - l.g.pad_top;
    const std::uint8_t *in = task.in + (unit.sample + s) * task.in_stride + at(l.in, y, -l.g.pad_left);
    std::uint8_t *to = v + s * wino.v_bytes(unit.rows) + r * wino.v_row;
    if (channels >= Vec::kBytes) transform_row<Dims, Vec::kBytes>(in, l.in.row(), channels, wino.tile_cols, offset, to);
    else if (channels >= 32) transform_row<Dims, 32>(in, l.in.row(), channels, wino.tile_cols, offset, to);
    else transform_row<Dims, 16>(in, l.in.row(), channels, wino.tile_cols, offset, to);
  }
}

// ---- weights --------------------------------------------------------------------------------------------------------------

// 2 G g for three vectors `gap` bytes apart.
template <int N>
inline void transform_taps(const typename ByteVector<N>::V (&g)[3], typename ByteVector<N>::V (&u)[4]) {
  const auto ends = g[0] + g[2];
  u[0] = g[0] + g[0], u[1] = ends + g[1], u[2] = ends - g[1], u[3] = g[2] + g[2];
}

// A register of levels of each of the 9 taps, given by level(tap), to all points of U: point p, kernel row y (1-d) at to + p * point + y * row.
template <int Dims, class Level>
inline __attribute__((always_inline)) void transform_levels(const Level &level, std::uint8_t *to, std::int64_t row, std::int64_t point) {
  constexpr int N = Vec::kBytes;
  using B = ByteVector<N>;
  using V = typename B::V;
  V rows[3][4];
#pragma GCC unroll 3
  for (int y = 0; y < 3; ++y) {
    const V g[3] = {level(3 * y), level(3 * y + 1), level(3 * y + 2)};
    transform_taps<N>(g, rows[y]);
    if constexpr (Dims == 1)
      for (int j = 0; j < 4; ++j) B::store(to + j * point + y * row, rows[y][j]);
  }
  if constexpr (Dims == 2) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V g[3] = {rows[0][j], rows[1][j], rows[2][j]};
      V column[4];
      transform_taps<N>(g, column);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) B::store(to + (4 * k + j) * point, column[k]);
    }
  }
}

// What is added to 2 y (4 y) of every output of a tile: minus what the bytes' offsets brought, plus 2 (4) * correction, so that
// half (a quarter) is the sum over stored bytes that rule 4 expects. add: [output of the tile][lane].
template <int Dims>
inline void tile_offsets(const ConvLayer &l, std::int64_t channel, int outputs, std::int32_t *add) {
  const std::int64_t stride = l.w.blocks * kLanes;
  constexpr std::uint32_t kScale = Dims == 1 ? 2 : 4;
  const std::uint32_t sum_offset = kScale * static_cast<std::uint32_t>(-l.in_lo);
  std::uint32_t taps[9][kPanelLanes] = {};
  for (int t = 0; t < 9; ++t)
    for (int i = 0; i < outputs; ++i) taps[t][i] = static_cast<std::uint32_t>(l.tap_sums[t * stride + channel + i]);
  for (int i = 0; i < kPanelLanes; ++i) {
    std::uint32_t row[3][4], all = 0;  // 2 G of each kernel row's tap sums; all of them
    for (int y = 0; y < 3; ++y) {
      const std::uint32_t a = taps[3 * y][i], b = taps[3 * y + 1][i], c = taps[3 * y + 2][i];
      row[y][0] = 2 * a, row[y][1] = a + b + c, row[y][2] = a - b + c, row[y][3] = 2 * c;
      all += a + b + c;
    }
    std::uint32_t m[2][4];  // what the offsets brought: in 1-d to the points, in 2-d to the two sums over the points of a column
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t a = row[0][j], b = row[1][j], c = row[2][j], own = j == 1 ? sum_offset : 128;
      if constexpr (Dims == 1) {
        m[0][j] = own * (a + b + c);
      } else {
        const std::uint32_t p0 = 128 * 2 * a, p1 = own * (a + b + c), p2 = 128 * (a - b + c), p3 = 128 * 2 * c;
        m[0][j] = p0 + p1 + p2;
        m[1][j] = p1 - p2 - p3;
      }
    }
    for (int y = 0; y < Dims; ++y) {
      add[2 * y * kPanelLanes + i] = static_cast<std::int32_t>(kScale * l.in.zero * all - (m[y][0] + m[y][1] + m[y][2]));
      add[(2 * y + 1) * kPanelLanes + i] = static_cast<std::int32_t>(kScale * l.in.zero * all - (m[y][1] - m[y][2] - m[y][3]));
    }
  }
}

// ---- outputs --------------------------------------------------------------------------------------------------------------

// Points' sums of `pixels` tiles, `point` values apart, to sums of outputs: [row][2 * pixels][block][16], rows `gap` values apart.
template <int Dims, int Blocks>
inline void transform_outputs(const std::int32_t *sums, std::int64_t point, int pixels, const std::int32_t *add, std::int32_t *out,
                              std::int64_t gap) {
  using I = Vec::I;
  for (int m = 0; m < pixels; ++m) {
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) {
      const std::int32_t *s = sums + (m * Blocks + b) * kLanes;
      I r[Dims][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        if constexpr (Dims == 1) {
          r[0][j] = Vec::load(s + j * point);
        } else {
          const I p1 = Vec::pin(Vec::load(s + (4 + j) * point)), p2 = Vec::pin(Vec::load(s + (8 + j) * point));
          r[0][j] = Vec::add(Vec::add(Vec::load(s + j * point), p1), p2);
          r[Dims - 1][j] = Vec::sub(Vec::sub(p1, p2), Vec::load(s + (12 + j) * point));
        }
      }
#pragma GCC unroll 2
      for (int y = 0; y < Dims; ++y) {
        const std::int32_t *offset = add + 2 * y * kPanelLanes + b * kLanes;
        const I left = Vec::add(Vec::add(r[y][0], r[y][1]), Vec::add(r[y][2], Vec::load(offset)));
        const I right = Vec::sub(Vec::sub(r[y][1], r[y][2]), Vec::sub(r[y][3], Vec::load(offset + kPanelLanes)));
        std::int32_t *to = out + y * gap + (2 * m * Blocks + b) * kLanes;
        Vec::store(to, Vec::sar<Dims>(left));
        Vec::store(to + Blocks * kLanes, Vec::sar<Dims>(right));
      }
    }
  }
}

// The same, and on to bytes of the map without a stop in memory: layers that are quick. out, res: the first pixel of the run in
// the tile's first row; rows and cols say how many of the 2 * pixels columns and of the rows there are.
template <bool Unit, bool Residual>
inline void put_quick(const PanelRequant &p, const std::int32_t *sums, std::int64_t point, const std::int32_t *add, const PixelRun &run,
                      std::int64_t rows, std::int64_t out_row, std::int64_t out_pixel, std::int64_t res_row, std::int64_t res_pixel) {
  using I = Vec::I;
  const Vec::Clamp clamp = Vec::clamp_of(*p.q);
  const NarrowVectors<Unit, Residual, 2> narrow(p);
  const int count = p.count();
  std::uint8_t *out = run.out;
  const std::uint8_t *res = run.res;
  for (int left = run.pixels; left > 0; left -= 2, sums += 2 * kLanes, out += 2 * out_pixel, res += Residual ? 2 * res_pixel : 0) {
    I v[2][4];  // [row][column, block]
#pragma GCC unroll 2
    for (int b = 0; b < 2; ++b) {
      I top[4], bottom[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const std::int32_t *s = sums + b * kLanes + j * point;
        const I p1 = Vec::pin(Vec::load(s + 4 * point)), p2 = Vec::pin(Vec::load(s + 8 * point));
        top[j] = Vec::add(Vec::add(Vec::load(s), p1), p2);
        bottom[j] = Vec::sub(Vec::sub(p1, p2), Vec::load(s + 12 * point));
      }
      const std::int32_t *offset = add + b * kLanes;
      v[0][b] = Vec::add(Vec::add(top[0], top[1]), Vec::add(top[2], Vec::load(offset)));
      v[0][2 + b] = Vec::sub(Vec::sub(top[1], top[2]), Vec::sub(top[3], Vec::load(offset + kPanelLanes)));
      v[1][b] = Vec::add(Vec::add(bottom[0], bottom[1]), Vec::add(bottom[2], Vec::load(offset + 2 * kPanelLanes)));
      v[1][2 + b] = Vec::sub(Vec::sub(bottom[1], bottom[2]), Vec::sub(bottom[3], Vec::load(offset + 3 * kPanelLanes)));
    }
#pragma GCC unroll 2
    for (int y = 0; y < 2; ++y) {
      if (y >= rows) break;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)  // the residual of a column that does not exist is not read
        v[y][i] = narrow(Vec::sar<2>(v[y][i]), i % 2, Residual ? res + y * res_row + (i / 2 < left ? i / 2 * res_pixel : 0) : nullptr);
      const Vec::Bytes bytes = Vec::pack(v[y][0], v[y][1], v[y][2], v[y][3], clamp);
      Vec::store_half(out + y * out_row, bytes, 0, count);
      if (left > 1) Vec::store_half(out + y * out_row + out_pixel, bytes, 1, count);
    }
  }
}

// ---- a call ---------------------------------------------------------------------------------------------------------------

template <int Dims>
struct WinogradThread {
  Winograd<Dims> wino;
  const Task &task;
  std::uint8_t *v;
  std::int8_t *u, *levels;
  std::int32_t *sums, *outputs;

  WinogradThread(const ConvLayer &l, const Task &t) : wino(l, t.samples, t.threads), task(t) {
    v = task.scratch + (wino.shared ? 0 : task.thread * wino.v_part());
    std::uint8_t *own = task.scratch + (wino.shared ? 1 : task.threads) * wino.v_part() + task.thread * wino.thread_part();
    u = reinterpret_cast<std::int8_t *>(own);
    levels = u + wino.u_part();
    sums = reinterpret_cast<std::int32_t *>(levels + panel_bytes(l.w));
    outputs = sums + wino.kSums;
  }

  int panel_blocks(std::int64_t panel) const { return static_cast<int>(least(kBlocks, wino.l.w.blocks - panel * kBlocks)); }

  // U of a panel. Where taps are whole superblocks, levels go from the decoder's registers into the transform.
  void make_u(std::int64_t panel, std::int8_t *u_panel) const {
    const Weights &w = wino.l.w;
    const int blocks = panel_blocks(panel);
    const std::uint8_t *packed = w.packed + static_cast<std::size_t>(panel * kBlocks) * w.block_bytes();
    const std::int64_t tap_steps = w.steps / 9, row = tap_steps * blocks * 64, point = wino.point_bytes(blocks);
    auto *to = reinterpret_cast<std::uint8_t *>(u_panel);
    if constexpr (kFused) {
      if (tap_steps % 8 == 0) {
        const std::int64_t super = 64 * w.format->bits, tap = tap_steps / 8 * super;
        const auto transform = [&](const auto &step) {
          for (int b = 0; b < blocks; ++b) {
            const std::uint8_t *from = packed + static_cast<std::size_t>(b) * w.block_bytes();
            std::uint8_t *at_step = to + b * 64;
            for (std::int64_t s = 0; s < tap_steps / 8; ++s, from += super, at_step += 8 * blocks * 64)
#pragma GCC unroll 8
              for (int z = 0; z < 8; ++z)
                transform_levels<Dims>([&](int t) { return step(from + t * tap, z); }, at_step + z * blocks * 64, row, point);
          }
        };
        // A type that depends on Dims: where kFused is false, nobody looks for each_step.
        if (typename OfTemplate<LevelDecoder, Dims>::Type(w, 0).each_step(transform)) return;
      }
    }
    decode_panel(w, packed, blocks, levels);
    const auto *from = reinterpret_cast<const std::uint8_t *>(levels);
    for (std::int64_t i = 0; i < row; i += Vec::kBytes)
      transform_levels<Dims>([&](int t) { return ByteVector<Vec::kBytes>::load(from + t * row + i); }, to + i, row, point);
  }

  // Tiles [begin, end) of the list (panel, sample of the unit, tile).
  void multiply(const Unit &unit, std::int64_t begin, std::int64_t end) const {
    const ConvLayer &l = wino.l;
    const Tiles tiles = wino.tiles(unit);
    const std::int64_t segments[3] = {0, wino.v_row, 2 * wino.v_row}, per_panel = tiles.count * unit.samples;
    MicroArgs a;
    a.stride = l.g.in_c;
    a.segments = segments;
    a.count = wino.kSegments;
    a.steps = l.g.in_c / kStep;
    a.repeats = wino.kPoints;
    a.skip = kSkip;
    a.advance = wino.tile_cols * l.g.in_c;
    a.sums = sums;
    const int largest_byte = 128 + Dims * (l.in_hi - l.in_lo);
    PanelRequant requant;
    alignas(64) std::int32_t add[2 * Dims * kPanelLanes];
    while (begin < end) {
      const std::int64_t panel = begin / per_panel, channel = panel * kPanelLanes;
      const int blocks = panel_blocks(panel), outs = static_cast<int>(least(kPanelLanes, l.g.out_c - channel));
      requant.load(l.q, channel, outs);
      tile_offsets<Dims>(l, channel, outs, add);
      if (!wino.all_u) make_u(panel, u);
      a.panel = wino.all_u ? u + panel * wino.u_panel : u;
      a.burst[0] = steps_in_int16(largest_byte, Dims == 1 ? l.wino1_max : l.wino2_max);
      if (Dims == 1 || a.burst[0] > 1) fit_bursts(a, blocks, largest_byte);  // else it would find too little
      const Finish finish = blocks == 1 ? finish_of<1>(l.q) : finish_of<kBlocks>(l.q);
      for (const std::int64_t stop = least(end, (panel + 1) * per_panel); begin < stop; ++begin) {
        const std::int64_t s = begin % per_panel / tiles.count;
        const Tile tile(tiles, begin % tiles.count);
        for (int i = 0; i < tile.groups; ++i)
          a.pixels[i] = v + s * wino.v_bytes(unit.rows) + tile.y[i] * wino.v_row + tile.x[i] * l.g.in_c;
        micro_kernel(tile.run, tile.groups, blocks)(a);
        for (int i = 0; i < tile.groups; ++i)
          put(requant, add, finish, tile.run, tile.groups, i, unit.sample + s, unit.row + tile.y[i], tile.x[i]);
      }
    }
  }

  // The outputs of run i of the tile whose points lie in `sums`.
  void put(const PanelRequant &requant, const std::int32_t *add, Finish finish, int run, int groups, int i, std::int64_t sample,
           std::int64_t tile_y, std::int64_t tile_x) const {
    const ConvLayer &l = wino.l;
    const std::int64_t point = run * groups * requant.blocks * kLanes, gap = 2 * run * requant.blocks * kLanes;
    const std::int32_t *from = sums + i * run * requant.blocks * kLanes;
    const std::int64_t oy = tile_y * wino.kTileH, ox = 2 * tile_x, rows = least(wino.kTileH, l.g.out_h - oy);
    const std::int64_t out_pixel = l.out.channels * l.out.item, res_pixel = l.q.residual ? l.res.channels * l.res.item : 0;
    PixelRun to;
    to.pixels = static_cast<int>(least(2 * run, l.g.out_w - ox));
    to.out = task.out + sample * task.out_stride + at(l.out, oy, ox) + requant.channel * l.out.item;
    if (l.q.residual) to.res = task.residual + sample * task.res_stride + at(l.res, oy, ox) + requant.channel * l.res.item;
    if (Dims == 2 && kBlocks == 2 && requant.blocks == 2 && quick(l.q)) {
      const auto put_run = l.q.unit ? (l.q.residual ? put_quick<true, true> : put_quick<true, false>)
                                    : (l.q.residual ? put_quick<false, true> : put_quick<false, false>);
      put_run(requant, from, point, add, to, rows, l.out.row(), out_pixel, l.q.residual ? l.res.row() : 0, res_pixel);
      return;
    }
    if (requant.blocks == 1) transform_outputs<Dims, 1>(from, point, run, add, outputs, gap);
    else transform_outputs<Dims, kBlocks>(from, point, run, add, outputs, gap);
    for (int y = 0; y < rows; ++y, to.out += l.out.row(), to.res += l.q.residual ? l.res.row() : 0)
      finish(requant, outputs + y * gap, to, out_pixel, res_pixel);
  }
};

template <int Dims>
inline void run_winograd(const ConvLayer &l, const Task &task, int phase) {
  const WinogradThread<Dims> t(l, task);
  const auto &wino = t.wino;
  std::int64_t begin, end;
  if (wino.shared) {
    const Unit unit = wino.unit(0);
    if (phase == 0) {
      task.share(unit.samples * wino.v_rows(unit.rows), begin, end);
      transform_inputs(wino, task, unit, begin, end, t.v);
    } else {
      task.share(wino.panels * unit.samples * wino.tiles(unit).count, begin, end);
      t.multiply(unit, begin, end);
    }
  } else if (phase == 1) {
    task.share(wino.units, begin, end);
    if (wino.all_u && begin < end)
      for (std::int64_t p = 0; p < wino.panels; ++p) t.make_u(p, t.u + p * wino.u_panel);
    for (; begin < end; ++begin) {
      const Unit unit = wino.unit(begin);
      transform_inputs(wino, task, unit, 0, unit.samples * wino.v_rows(unit.rows), t.v);
      t.multiply(unit, 0, wino.panels * unit.samples * wino.tiles(unit).count);
    }
  }
}

template <int Dims>
inline bool can_winograd(const ConvLayer &l) {
  const bsk_conv &g = l.g;
  constexpr std::int64_t kScale = Dims == 1 ? 2 : 4;
  const int most = Dims == 1 ? l.wino1_max : l.wino2_max;
  if (!can_direct(l) || !l.tap_sums || l.w.planes != 1 || most <= 0 || most > kLimit || l.in_lo > 0 || l.in_hi < 0) return false;
  if (g.kernel_h != 3 || g.kernel_w != 3 || g.stride_h != 1 || g.stride_w != 1 || g.dilation_h != 1 || g.dilation_w != 1 || g.groups != 1 ||
      g.in_c % kStep != 0 || g.in_c < 16)
    return false;
  // 2 y (4 y) over stored bytes fits int32, so that shifting it right is exact.
  const std::int64_t stored = l.acc_bound + std::int64_t{l.in.zero} * 9 * g.in_c * l.w.format->max_level;
  return kScale * (static_cast<std::int64_t>(l.in_hi) - l.in_lo) <= 255 && stored < (std::int64_t{1} << 31) / kScale;
}

template <int Dims>
inline std::size_t scratch_winograd(const ConvLayer &l, std::int64_t samples, int threads) {
  return static_cast<std::size_t>(Winograd<Dims>(l, samples, threads).bytes(threads));
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
