// Pooling on maps. Included by pixels.inc.h.

// The taps of a window that lie on the map, as steps in bytes from the first of them.
struct Taps {
  std::int64_t first, count;  // along one axis

  // The window begins at `at`, before the map if negative.
  Taps(std::int64_t at, std::int64_t kernel, std::int64_t dilation, std::int64_t size) : first(0), count(kernel) {
    if (at >= 0 && at + (kernel - 1) * dilation < size) return;  // most windows, and no division
    first = at >= 0 ? 0 : (-at + dilation - 1) / dilation;
    const std::int64_t end = at >= size ? 0 : least(kernel, (size - 1 - at) / dilation + 1);
    count = greatest<std::int64_t>(0, end - first);
  }
};

struct Window {
  const std::uint8_t *in;
  std::int64_t rows, columns, row_step, column_step;
};

// f(output pixel, window) for every output pixel of this thread, row by row.
template <class F>
BITSHIFT_INLINE void each_window(const bsk_pool &p, const Map &in, const Map &out, const Task &task, F f) {
  const std::int64_t pixel = in.channels * in.item;
  each_piece(task, out.height, [&](std::int64_t sample, std::int64_t oy) {
    const std::int64_t y = oy * p.stride_h - p.pad_top;
    const Taps rows(y, p.kernel_h, p.dilation_h, in.height);
    const std::uint8_t *line = task.in + sample * task.in_stride + in.origin() + (y + rows.first * p.dilation_h) * in.row();
    std::uint8_t *to = task.out + sample * task.out_stride + out.origin() + oy * out.row();
    for (std::int64_t ox = 0; ox < out.width; ox++, to += out.channels * out.item) {
      const std::int64_t x = ox * p.stride_w - p.pad_left;
      const Taps columns(x, p.kernel_w, p.dilation_w, in.width);
      f(to, Window{line + (x + columns.first * p.dilation_w) * pixel, rows.count, columns.count, p.dilation_h * in.row(),
                   p.dilation_w * pixel});
    }
  });
}

// ---- max -------------------------------------------------------------------------------------------------------------

template <class T>
constexpr T lowest() {
  return T(-1) < T(0) ? static_cast<T>(T(1) << (8 * sizeof(T) - 2)) * -2 : T(0);
}

// Rows, Columns: of the window if they are known when this is compiled, else 0.
template <class T, int N, int Rows, int Columns>
BITSHIFT_INLINE void max_lanes(const Window &w, std::int64_t c, std::uint8_t *to) {
  using V = Vector<T, N>;
  const std::int64_t rows = Rows ? Rows : w.rows, columns = Columns ? Columns : w.columns;
  V best = V{} + lowest<T>();
  const std::uint8_t *row = w.in + c * static_cast<std::int64_t>(sizeof(T));
#pragma GCC unroll 3
  for (std::int64_t y = 0; y < rows; y++, row += w.row_step) {
#pragma GCC unroll 3
    for (std::int64_t x = 0; x < columns; x++) {
      const V v = load<V>(row + x * w.column_step);
      best = v > best ? v : best;
    }
  }
  store(to + c * static_cast<std::int64_t>(sizeof(T)), best);
}

// The last vector of a pixel overlaps the one before it; pixels narrower than a vector take a narrower one.
template <class T, int N, int Rows, int Columns>
BITSHIFT_INLINE void max_pixel(const Window &w, std::int64_t channels, std::uint8_t *to) {
  if constexpr (N == 1) {
    for (std::int64_t c = 0; c < channels; c++) max_lanes<T, 1, Rows, Columns>(w, c, to);
  } else {
    if (channels < N) return max_pixel<T, (N * sizeof(T) > 16 ? N / 2 : 1), Rows, Columns>(w, channels, to);
    for (std::int64_t c = 0; c + N <= channels; c += N) max_lanes<T, N, Rows, Columns>(w, c, to);
    if (channels % N) max_lanes<T, N, Rows, Columns>(w, channels - N, to);
  }
}

template <class T>
void max_pool_of(const bsk_pool &p, const Map &in, const Map &out, const Task &task) {
  constexpr int lanes = kWidth / static_cast<int>(sizeof(T));
  each_window(p, in, out, task, [&](std::uint8_t *to, const Window &w) {
    if (sizeof(T) == 1 && w.rows == 3 && w.columns == 3) return max_pixel<T, lanes, 3, 3>(w, in.channels, to);
    if (sizeof(T) == 1 && w.rows == 2 && w.columns == 2) return max_pixel<T, lanes, 2, 2>(w, in.channels, to);
    max_pixel<T, lanes, 0, 0>(w, in.channels, to);
  });
}

void max_pool(const bsk_pool &p, const Map &in, const Map &out, const Task &task) {
  switch (in.item) {
    case 1: return max_pool_of<std::uint8_t>(p, in, out, task);  // q + zero keeps the order of q
    case 2: return max_pool_of<std::int16_t>(p, in, out, task);
    default: return max_pool_of<std::int32_t>(p, in, out, task);
  }
}

// ---- average ---------------------------------------------------------------------------------------------------------

constexpr int kBlock = 64;               // channels summed at a time
constexpr std::int64_t kSumTaps = 257;  // 257 * 255 < 2^16

// Bytes: 16-bit sums that are emptied into `sums` before they could overflow. Up to 63 bytes behind the pixel are read: slack of
// the map.
BITSHIFT_INLINE void sum_bytes(const Window &w, std::int64_t c, std::uint32_t *sums) {
  constexpr int lanes = kWidth / 2, parts = kBlock / lanes;
  using Sum = Vector<std::uint16_t, lanes>;
  Sum acc[parts] = {};
  std::int64_t room = kSumTaps;
  const auto empty = [&] {
    for (int i = 0; i < parts; i++) {
      for (int k = 0; k < lanes; k++) sums[i * lanes + k] += acc[i][k];
      acc[i] = Sum{};
    }
    room = kSumTaps;
  };
  for (int i = 0; i < kBlock; i++) sums[i] = 0;
  const std::uint8_t *row = w.in + c;
  for (std::int64_t y = 0; y < w.rows; y++, row += w.row_step) {
    const std::uint8_t *at = row;
    for (std::int64_t x = 0; x < w.columns;) {
      const std::int64_t n = least(w.columns - x, room);
      for (std::int64_t k = 0; k < n; k++, at += w.column_step)
        for (int i = 0; i < parts; i++)
          acc[i] += __builtin_convertvector(load<Vector<std::uint8_t, lanes>>(at + i * lanes), Sum);
      x += n;
      room -= n;
      if (room == 0) empty();
    }
  }
  empty();
}

template <class T>
BITSHIFT_INLINE void sum_items(const Window &w, std::int64_t c, std::int64_t count, std::uint32_t *sums) {
  for (int i = 0; i < kBlock; i++) sums[i] = 0;
  for (std::int64_t y = 0; y < w.rows; y++)
    for (std::int64_t x = 0; x < w.columns; x++) {
      const std::uint8_t *at = w.in + y * w.row_step + x * w.column_step + c * static_cast<std::int64_t>(sizeof(T));
      for (std::int64_t i = 0; i < count; i++)
        sums[i] += static_cast<std::uint32_t>(load<T>(at + i * static_cast<std::int64_t>(sizeof(T))));
    }
}

void avg_pool(const bsk_pool &p, std::int32_t mult, std::int64_t offset, int shift, std::int32_t lo, std::int32_t hi, const Map &in,
              const Map &out, const Task &task) {
  // Whether sum * mult + offset fits 32 bits for any bytes.
  const std::int64_t magnitude = offset < 0 ? -(offset + 1) : offset;
  const bool narrow = in.item == 1 && p.kernel_h * p.kernel_w < 32768 && magnitude < (std::int64_t{1} << 30) &&
                      p.kernel_h * p.kernel_w * 255 * mult < (std::int64_t{1} << 30);
  each_window(p, in, out, task, [&](std::uint8_t *to, const Window &w) {
    const std::uint32_t zeros = static_cast<std::uint32_t>(w.rows * w.columns) * in.zero;
    for (std::int64_t c = 0; c < in.channels; c += kBlock) {
      const std::int64_t count = least<std::int64_t>(kBlock, in.channels - c);
      std::uint32_t sums[kBlock];
      std::int32_t y[kBlock];
      if (in.item == 1) {
        sum_bytes(w, c, sums);
      } else if (in.item == 2) {
        sum_items<std::int16_t>(w, c, count, sums);
      } else {
        sum_items<std::int32_t>(w, c, count, sums);
      }
      if (narrow) {
        const std::int32_t add = static_cast<std::int32_t>(offset);
        const int by = least(shift, 31);
        for (int i = 0; i < kBlock; i++)
          y[i] = greatest(lo, least(hi, (static_cast<std::int32_t>(sums[i] - zeros) * mult + add) >> by));
      } else {
        for (int i = 0; i < kBlock; i++) {
          const std::int64_t v = (static_cast<std::int64_t>(static_cast<std::int32_t>(sums[i] - zeros)) * mult + offset) >> shift;
          y[i] = static_cast<std::int32_t>(greatest<std::int64_t>(lo, least<std::int64_t>(hi, v)));
        }
      }
      store_values(out, y, count, to + c * out.item);
    }
  });
}
