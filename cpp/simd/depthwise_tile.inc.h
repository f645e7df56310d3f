// Where a tile of a block goes: the output rows of depthwise.inc.h's engines. Included in the namespace of requant.inc.h.

struct TileRuns {
  std::uint8_t *out = nullptr;        // pixel 0 of the first row, at the block's first channel
  const std::uint8_t *res = nullptr;  // the same of the residual, or null
  std::int64_t out_row = 0, res_row = 0, out_pixel = 0, res_pixel = 0;  // bytes
  std::int64_t valid = 0;             // rows that the map has; the tile may have more

  // Sums [row][column][16] of `count` columns from x on to the map.
  void finish(const ConvLayer &layer, const PanelRequant &panel, const std::int32_t *sums, std::int64_t x, std::int64_t count) const {
    const Finish to_map = finish_of<1>(layer.q);
    for (std::int64_t v = 0; v < valid; v++, sums += count * kLanes) {
      PixelRun run;
      run.out = out + v * out_row + x * out_pixel;
      run.res = res ? res + v * res_row + x * res_pixel : nullptr;
      run.pixels = static_cast<int>(count);
      to_map(panel, sums, run, out_pixel, res_pixel);
    }
  }
};

// PanelRequant::load for a block that begins at a multiple of 16 channels: whole vectors, which the padding of Requant's arrays
// allows. Small maps spend as long on this as on their pixels.
inline void load_panel(PanelRequant &panel, const Requant &q, std::int64_t first, int outputs) {
  panel.q = &q;
  panel.channel = first;
  panel.blocks = 1;
  panel.lanes = outputs;
  const auto copy = [first](auto &to, const auto *from) { __builtin_memcpy(to, from + first, sizeof to); };
  copy(panel.mult, q.mult);
  copy(panel.shift, q.shift);
  if (q.residual) copy(panel.res_shift, q.res_shift);
  else __builtin_memset(panel.res_shift, 0, sizeof panel.res_shift);
  if (q.narrow) {
    copy(panel.offset32, q.offset32);
  } else {
    copy(panel.correction, q.correction);
    copy(panel.offset64, q.offset64);
  }
}
