// Planar values to maps and back, float images to maps. Included by pixels.inc.h.
//
// Bytes of 16 channels and more move as 16 x 16 tiles that are transposed in registers; a piece of work is a run of 64 to 127
// pixels in row order, so that a tile may overlap the one before it where the run is no multiple of 16, and small maps (7 x 7)
// fill tiles across rows. Fewer channels are interleaved row by row.

constexpr std::int64_t kPiece = 64, kRun = 2 * kPiece;  // a piece is shorter than kRun
constexpr int kTile = 16;

using Tile = Vector<std::uint8_t, kTile>;

// Row i, element j becomes row j, element i: four perfect shuffles of the 256 bytes.
BITSHIFT_INLINE void transpose(Tile (&r)[kTile]) {
  typedef Tile Order;
  constexpr Order low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  constexpr Order high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int round = 0; round < 4; round++) {
    Tile t[kTile];
    for (int i = 0; i < kTile / 2; i++) {
      t[2 * i] = __builtin_shuffle(r[i], r[i + 8], low);
      t[2 * i + 1] = __builtin_shuffle(r[i], r[i + 8], high);
    }
    for (int i = 0; i < kTile; i++) r[i] = t[i];
  }
}

// A run of pixels in row order: where each lies in a map, from pixel (0, 0), in bytes.
struct Run {
  std::int64_t first, count, offset[kRun];

  Run(const Map &map, std::int64_t piece, std::int64_t pieces) {
    const std::int64_t pixels = map.height * map.width, pixel = map.channels * map.item;
    first = pixels * piece / pieces;
    count = pixels * (piece + 1) / pieces - first;
    std::int64_t x = first % map.width, line = first / map.width * map.row();
    for (std::int64_t i = 0; i < count; i++) {
      offset[i] = line + x * pixel;
      if (++x == map.width) x = 0, line += map.row();
    }
  }

  static std::int64_t pieces(const Map &map) { return greatest<std::int64_t>(1, map.height * map.width / kPiece); }
};

// from[c * plane + i] + add to to[i * C + c].
template <int C>
void interleave(const std::uint8_t *from, std::int64_t plane, std::int64_t n, std::uint8_t add, std::uint8_t *to) {
  for (std::int64_t i = 0; i < n; i++)
    for (int c = 0; c < C; c++) to[i * C + c] = static_cast<std::uint8_t>(from[c * plane + i] + add);
}

template <int C>
void separate(const std::uint8_t *from, std::int64_t plane, std::int64_t n, std::uint8_t subtract, std::uint8_t *to) {
  for (std::int64_t i = 0; i < n; i++)
    for (int c = 0; c < C; c++) to[c * plane + i] = static_cast<std::uint8_t>(from[i * C + c] - subtract);
}

void interleave_row(std::int64_t channels, const std::uint8_t *from, std::int64_t plane, std::int64_t n, std::uint8_t add,
                    std::uint8_t *to) {
  switch (channels) {
    case 1: return interleave<1>(from, plane, n, add, to);
    case 2: return interleave<2>(from, plane, n, add, to);
    case 3: return interleave<3>(from, plane, n, add, to);
    case 4: return interleave<4>(from, plane, n, add, to);
  }
  for (std::int64_t c = 0; c < channels; c++)
    for (std::int64_t i = 0; i < n; i++) to[i * channels + c] = static_cast<std::uint8_t>(from[c * plane + i] + add);
}

void separate_row(std::int64_t channels, const std::uint8_t *from, std::int64_t plane, std::int64_t n, std::uint8_t subtract,
                  std::uint8_t *to) {
  switch (channels) {
    case 1: return separate<1>(from, plane, n, subtract, to);
    case 2: return separate<2>(from, plane, n, subtract, to);
    case 3: return separate<3>(from, plane, n, subtract, to);
    case 4: return separate<4>(from, plane, n, subtract, to);
  }
  for (std::int64_t c = 0; c < channels; c++)
    for (std::int64_t i = 0; i < n; i++) to[c * plane + i] = static_cast<std::uint8_t>(from[i * channels + c] - subtract);
}

// Planar bytes to a map of bytes. fetch(sample, channel, channels, pixel, count, plane) gives the bytes of some channels' pixels
// and sets `plane`, the distance of channels; it is asked for at most kTile channels of kRun pixels.
template <class Fetch>
BITSHIFT_INLINE void bytes_to_map(const Map &out, const Task &task, Fetch fetch) {
  std::int64_t plane = 0;
  if (out.channels < kTile) {
    each_piece(task, out.height, [&](std::int64_t sample, std::int64_t y) {
      std::uint8_t *row = task.out + sample * task.out_stride + out.origin() + y * out.row();
      for (std::int64_t x = 0; x < out.width; x += kRun) {
        const std::int64_t n = least(kRun, out.width - x);
        const std::uint8_t *from = fetch(sample, 0, out.channels, y * out.width + x, n, plane);
        interleave_row(out.channels, from, plane, n, out.zero, row + x * out.channels);
      }
    });
    return;
  }
  const std::int64_t pieces = Run::pieces(out);
  each_piece(task, pieces, [&](std::int64_t sample, std::int64_t piece) {
    const Run run(out, piece, pieces);
    std::uint8_t *to = task.out + sample * task.out_stride + out.origin();
    for (std::int64_t next = 0; next < out.channels; next += kTile) {
      const std::int64_t c = least(next, out.channels - kTile);
      const std::uint8_t *from = fetch(sample, c, kTile, run.first, run.count, plane);
      if (run.count < kTile) {
        for (std::int64_t i = 0; i < run.count; i++)
          for (int k = 0; k < kTile; k++) to[run.offset[i] + c + k] = static_cast<std::uint8_t>(from[k * plane + i] + out.zero);
        continue;
      }
      for (std::int64_t step = 0; step < run.count; step += kTile) {
        const std::int64_t i = least(step, run.count - kTile);
        Tile t[kTile];
        for (int k = 0; k < kTile; k++) t[k] = load<Tile>(from + k * plane + i);
        transpose(t);
        for (int k = 0; k < kTile; k++) store(to + run.offset[i + k] + c, t[k] + out.zero);
      }
    }
  });
}

void bytes_to_planar(const Map &in, const Task &task) {
  const std::int64_t pixels = in.height * in.width;
  if (in.channels < kTile) {
    each_piece(task, in.height, [&](std::int64_t sample, std::int64_t y) {
      separate_row(in.channels, task.in + sample * task.in_stride + in.origin() + y * in.row(), pixels, in.width, in.zero,
                   task.out + sample * task.out_stride + y * in.width);
    });
    return;
  }
  const std::int64_t pieces = Run::pieces(in);
  each_piece(task, pieces, [&](std::int64_t sample, std::int64_t piece) {
    const Run run(in, piece, pieces);
    const std::uint8_t *from = task.in + sample * task.in_stride + in.origin();
    std::uint8_t *to = task.out + sample * task.out_stride + run.first;
    if (pixels == 1) return interleave<1>(from, 0, in.channels, static_cast<std::uint8_t>(-in.zero), to);
    for (std::int64_t next = 0; next < in.channels; next += kTile) {
      const std::int64_t c = least(next, in.channels - kTile);
      if (run.count < kTile) {
        for (int k = 0; k < kTile; k++)
          for (std::int64_t i = 0; i < run.count; i++)
            to[(c + k) * pixels + i] = static_cast<std::uint8_t>(from[run.offset[i] + c + k] - in.zero);
        continue;
      }
      for (std::int64_t step = 0; step < run.count; step += kTile) {
        const std::int64_t i = least(step, run.count - kTile);
        Tile t[kTile];
        for (int k = 0; k < kTile; k++) t[k] = load<Tile>(from + run.offset[i + k] + c);
        transpose(t);
        for (int k = 0; k < kTile; k++) store(to + (c + k) * pixels + i, t[k] - in.zero);
      }
    }
  });
}

// Wider items move one by one; a pair of loops for each direction.
template <class T>
void items_to_map(const Map &out, const Task &task) {
  const std::int64_t pieces = Run::pieces(out), pixels = out.height * out.width;
  each_piece(task, pieces, [&](std::int64_t sample, std::int64_t piece) {
    const Run run(out, piece, pieces);
    const std::uint8_t *from = task.in + sample * task.in_stride + run.first * out.item;
    std::uint8_t *to = task.out + sample * task.out_stride + out.origin();
    for (std::int64_t c = 0; c < out.channels; c++)
      for (std::int64_t i = 0; i < run.count; i++) store(to + run.offset[i] + c * out.item, load<T>(from + (c * pixels + i) * out.item));
  });
}

template <class T>
void items_to_planar(const Map &in, const Task &task) {
  const std::int64_t pieces = Run::pieces(in), pixels = in.height * in.width;
  each_piece(task, pieces, [&](std::int64_t sample, std::int64_t piece) {
    const Run run(in, piece, pieces);
    const std::uint8_t *from = task.in + sample * task.in_stride + in.origin();
    std::uint8_t *to = task.out + sample * task.out_stride + run.first * in.item;
    for (std::int64_t c = 0; c < in.channels; c++)
      for (std::int64_t i = 0; i < run.count; i++) store(to + (c * pixels + i) * in.item, load<T>(from + run.offset[i] + c * in.item));
  });
}

void from_planar(bsk_dtype, const Map &out, const Task &task) {
  if (out.item == 2) return items_to_map<std::int16_t>(out, task);
  if (out.item == 4) return items_to_map<std::int32_t>(out, task);
  const std::int64_t pixels = out.height * out.width;
  bytes_to_map(out, task, [&](std::int64_t sample, std::int64_t c, std::int64_t, std::int64_t pixel, std::int64_t, std::int64_t &plane) {
    plane = pixels;
    return task.in + sample * task.in_stride + c * pixels + pixel;
  });
}

void to_planar(bsk_dtype, const Map &in, const Task &task) {
  if (in.item == 2) return items_to_planar<std::int16_t>(in, task);
  if (in.item == 4) return items_to_planar<std::int32_t>(in, task);
  bytes_to_planar(in, task);
}

// ---- quantise --------------------------------------------------------------------------------------------------------

// The bytes of clamp(floor(x * factor + half), lo, hi), low 8 bits. In double nothing that floor can see is rounded: x * factor
// is exact, and a sum near an integer has at most 24 + 25 bits.
void quantize_doubles(double factor, double half, std::int32_t lo, std::int32_t hi, const float *x, std::int64_t n, std::uint8_t *to) {
  const double low = lo, high = hi, nan = 0 < lo ? lo : 0 > hi ? hi : 0;
  for (std::int64_t i = 0; i < n; i++) {
    double v = x[i] * factor + half;
    v = v == v ? v : nan;
    v = v < low ? low : v;
    v = v > high ? high : v;
    const std::int32_t whole = static_cast<std::int32_t>(v);
    to[i] = static_cast<std::uint8_t>(whole - (v < whole));
  }
}

// The same in float32. The caller has seen to it that factor is a power of two from 1 on, so that the product is exact (or
// infinite), and that lo - 1 and hi + 1 are exact. n is at most kRun.
#if defined(__AVX512BW__)
void quantize_floats(float factor, float half, std::int32_t lo, std::int32_t hi, const float *x, std::int64_t n, std::uint8_t *to) {
  // Product and sum rounded once, towards minus infinity: integers are representable, so none is crossed.
  constexpr int down = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m512 scale = _mm512_set1_ps(factor), add = _mm512_set1_ps(half);
  const __m512 low = _mm512_set1_ps(static_cast<float>(lo)), high = _mm512_set1_ps(static_cast<float>(hi));
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 live = n - i < 16 ? static_cast<__mmask16>((1u << (n - i)) - 1) : static_cast<__mmask16>(0xFFFF);
    const __m512 v = _mm512_maskz_loadu_ps(live, x + i);
    const __mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
    __m512 y = _mm512_maskz_fmadd_round_ps(number, v, scale, add, down);
    y = _mm512_min_ps(_mm512_max_ps(y, low), high);
    _mm512_mask_cvtepi32_storeu_epi8(to + i, live, _mm512_cvt_roundps_epi32(y, down));
  }
}
#else
void quantize_floats(float factor, float half, std::int32_t lo, std::int32_t hi, const float *x, std::int64_t n, std::uint8_t *to) {
  constexpr int lanes = kWidth / 4;
  using F = Vector<float, lanes>;
  using I = Vector<std::int32_t, lanes>;
  const F low = F{} + static_cast<float>(lo - 1), high = F{} + static_cast<float>(hi + 1);
  const F enough = F{} + (half > 0 ? half : 2.f);  // what a fraction needs to be rounded up
  std::int32_t out[kRun + lanes];
  for (std::int64_t i = 0; i < n; i += lanes) {
    float tail[lanes] = {};
    for (std::int64_t k = i; n - i < lanes && k < n; k++) tail[k - i] = x[k];
    F t = load<F>(n - i < lanes ? tail : x + i) * factor;
    t = F(I(t) & (t == t));  // NaN is 0
    t = t < low ? low : t;
    t = t > high ? high : t;
    I whole = __builtin_convertvector(t, I);
    whole += __builtin_convertvector(whole, F) > t;  // a comparison is -1 where it holds
    // The fraction is exact where it matters: for |t| >= 1/2 it has at most 24 bits, for less only its side of 1/2 counts.
    whole -= t - __builtin_convertvector(whole, F) >= enough;
    whole = whole < lo ? I{} + lo : whole;
    whole = whole > hi ? I{} + hi : whole;
    store(out + i, whole);
  }
  for (std::int64_t i = 0; i < n; i++) to[i] = static_cast<std::uint8_t>(out[i]);
}
#endif

void quantize_run(double factor, double half, std::int32_t lo, std::int32_t hi, const float *x, std::int64_t n, std::uint8_t *to) {
  // x * factor of a power of two; subnormal products would be rounded if it were less than 1.
  const bool power = factor >= 1 && factor <= 0x1p64 && static_cast<double>(static_cast<float>(factor)) == factor;
  if (power && (half == 0.5 || half == 0) && lo > -65536 && hi < 65536)
    return quantize_floats(static_cast<float>(factor), static_cast<float>(half), lo, hi, x, n, to);
  quantize_doubles(factor, half, lo, hi, x, n, to);
}

void quantize(double factor, double half, std::int32_t lo, std::int32_t hi, const Map &out, const Task &task) {
  const std::int64_t pixels = out.height * out.width;
  alignas(64) std::uint8_t bytes[kTile * kRun];
  bytes_to_map(out, task, [&](std::int64_t sample, std::int64_t c, std::int64_t channels, std::int64_t pixel, std::int64_t count,
                              std::int64_t &plane) -> const std::uint8_t * {
    const float *x = reinterpret_cast<const float *>(task.in + sample * task.in_stride) + c * pixels + pixel;
    for (std::int64_t k = 0; k < channels; k++) quantize_run(factor, half, lo, hi, x + k * pixels, count, bytes + k * kRun);
    plane = kRun;
    return bytes;
  });
}
