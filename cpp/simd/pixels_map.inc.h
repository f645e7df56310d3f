// Element by element on maps: add, tables, channels, borders. Included by pixels.inc.h.

// Rows that lie at the same place of two or three maps: f(in, residual, out) of each row of this thread.
template <class F>
BITSHIFT_INLINE void each_row(const Map &a, const Map &b, const Map &out, const Task &task, F f) {
  each_piece(task, out.height, [&](std::int64_t sample, std::int64_t y) {
    f(task.in + sample * task.in_stride + a.origin() + y * a.row(),
      task.residual ? task.residual + sample * task.res_stride + b.origin() + y * b.row() : nullptr,
      task.out + sample * task.out_stride + out.origin() + y * out.row());
  });
}

constexpr std::int64_t kChunk = 256;  // int32 values between load and store

void load_values(const Map &map, const std::uint8_t *from, std::int64_t n, std::int32_t *to) {
  if (map.item == 1) {
    for (std::int64_t i = 0; i < n; i++) to[i] = from[i] - map.zero;
  } else if (map.item == 2) {
    for (std::int64_t i = 0; i < n; i++) to[i] = load<std::int16_t>(from + 2 * i);
  } else {
    __builtin_memcpy(to, from, static_cast<std::size_t>(n) * 4);
  }
}

void store_values(const Map &map, const std::int32_t *from, std::int64_t n, std::uint8_t *to) {
  if (map.item == 1) {
    for (std::int64_t i = 0; i < n; i++) to[i] = static_cast<std::uint8_t>(from[i] + map.zero);
  } else if (map.item == 2) {
    for (std::int64_t i = 0; i < n; i++) store(to + 2 * i, static_cast<std::int16_t>(from[i]));
  } else {
    __builtin_memcpy(to, from, static_cast<std::size_t>(n) * 4);
  }
}

// Bytes whose sum fits int16; wrapping, as only the end of the sum must fit. b may be null.
struct ByteAdd {
  std::int16_t factor_a, factor_b, constant, down, lo, hi, zero;

  template <int N>
  BITSHIFT_INLINE void lanes(const std::uint8_t *a, const std::uint8_t *b, std::uint8_t *to) const {
    using Byte = Vector<std::uint8_t, N>;
    using Sum = Vector<std::int16_t, N>;
    Sum s = __builtin_convertvector(load<Byte>(a), Sum) * factor_a + constant;
    if (b) s += __builtin_convertvector(load<Byte>(b), Sum) * factor_b;
    s >>= down;
    s = s < lo ? Sum{} + lo : s;
    s = s > hi ? Sum{} + hi : s;
    store(to, __builtin_convertvector(s + zero, Byte));
  }

  BITSHIFT_INLINE void run(const std::uint8_t *a, const std::uint8_t *b, std::int64_t n, std::uint8_t *to) const {
    constexpr int N = kWidth / 2;
    std::int64_t i = 0;
    for (; i + N <= n; i += N) lanes<N>(a + i, b ? b + i : nullptr, to + i);
    for (; i < n; i++) lanes<1>(a + i, b ? b + i : nullptr, to + i);
  }
};

void add(const bsk_add &p, const Map &a, const Map &b, const Map &out, const Task &task) {
  const bool two = task.residual != nullptr;
  const std::int64_t n = out.width * out.channels;
  const bool bytes = a.item == 1 && out.item == 1 && (!two || b.item == 1);
  if (bytes && p.down <= 14 && p.shift_a <= 6 && (!two || p.shift_b <= 6)) {
    const std::int32_t fa = 1 << p.shift_a, fb = two ? 1 << p.shift_b : 0, half = p.down ? 1 << (p.down - 1) : 0;
    if (255 * (fa + fb) + half < 32768) {
      const ByteAdd add = {static_cast<std::int16_t>(fa), static_cast<std::int16_t>(fb),
                           static_cast<std::int16_t>(half - a.zero * fa - (two ? b.zero * fb : 0)),
                           static_cast<std::int16_t>(p.down), static_cast<std::int16_t>(greatest(p.lo, -32768)),
                           static_cast<std::int16_t>(least(p.hi, 32767)), out.zero};
      each_row(a, b, out, task, [&](const std::uint8_t *x, const std::uint8_t *y, std::uint8_t *to) {
        if (y) {
          add.run(x, y, n, to);
        } else {
          add.run(x, nullptr, n, to);
        }
      });
      return;
    }
  }
  const std::int64_t factor_a = std::int64_t{1} << p.shift_a, factor_b = two ? std::int64_t{1} << p.shift_b : 0;
  const std::int64_t half = p.down ? std::int64_t{1} << (p.down - 1) : 0;
  each_row(a, b, out, task, [&](const std::uint8_t *x, const std::uint8_t *y, std::uint8_t *to) {
    std::int32_t left[kChunk], right[kChunk] = {};
    for (std::int64_t i = 0; i < n; i += kChunk) {
      const std::int64_t m = least(kChunk, n - i);
      load_values(a, x + i * a.item, m, left);
      if (y) load_values(b, y + i * b.item, m, right);
      for (std::int64_t k = 0; k < m; k++) {
        const std::int64_t v = (left[k] * factor_a + right[k] * factor_b + half) >> p.down;
        left[k] = static_cast<std::int32_t>(greatest<std::int64_t>(p.lo, least<std::int64_t>(p.hi, v)));
      }
      store_values(out, left, m, to + i * out.item);
    }
  });
}

// ---- tables ----------------------------------------------------------------------------------------------------------

// A table of 256 bytes, over n bytes.
struct ByteTable {
  const std::uint8_t *table;
#if defined(__AVX512VBMI__)
  __m512i quarter[4];

  explicit ByteTable(const std::uint8_t *t) : table(t) {
    for (int i = 0; i < 4; i++) quarter[i] = _mm512_loadu_si512(t + 64 * i);
  }
  void run(const std::uint8_t *from, std::int64_t n, std::uint8_t *to) const {
    for (std::int64_t i = 0; i < n; i += 64) {
      const __mmask64 live = n - i < 64 ? (std::uint64_t{1} << (n - i)) - 1 : ~std::uint64_t{0};
      const __m512i x = _mm512_maskz_loadu_epi8(live, from + i);
      const __m512i low = _mm512_permutex2var_epi8(quarter[0], x, quarter[1]);
      const __m512i high = _mm512_permutex2var_epi8(quarter[2], x, quarter[3]);
      _mm512_mask_storeu_epi8(to + i, live, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
    }
  }
#elif defined(__aarch64__)
  uint8x16x4_t quarter[4];

  explicit ByteTable(const std::uint8_t *t) : table(t) {
    for (int i = 0; i < 4; i++) quarter[i] = vld1q_u8_x4(t + 64 * i);
  }
  void run(const std::uint8_t *from, std::int64_t n, std::uint8_t *to) const {
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      const uint8x16_t x = vld1q_u8(from + i);  // an index beyond 63 gives 0
      uint8x16_t y = vqtbl4q_u8(quarter[0], x);
      for (int k = 1; k < 4; k++) y = vorrq_u8(y, vqtbl4q_u8(quarter[k], veorq_u8(x, vdupq_n_u8(static_cast<std::uint8_t>(64 * k)))));
      vst1q_u8(to + i, y);
    }
    for (; i < n; i++) to[i] = table[from[i]];
  }
#else
  explicit ByteTable(const std::uint8_t *t) : table(t) {}
  void run(const std::uint8_t *from, std::int64_t n, std::uint8_t *to) const {
    for (std::int64_t i = 0; i < n; i++) to[i] = table[from[i]];
  }
#endif
};

void table(const std::uint8_t *entries, const Map &in, const Map &out, const Task &task) {
  const ByteTable map(entries);
  const std::int64_t n = out.width * out.channels;
  each_row(in, in, out, task, [&](const std::uint8_t *from, const std::uint8_t *, std::uint8_t *to) { map.run(from, n, to); });
}

// A copy of n bytes that are few and no constant number: memcpy would cost more than it moves.
BITSHIFT_INLINE void copy_bytes(const std::uint8_t *from, std::int64_t n, std::uint8_t *to) {
  using V = Vector<std::uint8_t, 16>;
  if (n < 16) {
    for (std::int64_t i = 0; i < n; i++) to[i] = from[i];
    return;
  }
  for (std::int64_t i = 0; i + 16 <= n; i += 16) store(to + i, load<V>(from + i));
  store(to + n - 16, load<V>(from + n - 16));
}

void channels(const std::uint8_t *entries, const Map &in, std::int64_t first, const Map &out, const Task &task) {
  const std::int64_t n = in.channels * in.item, step = out.channels * out.item;
  const auto rows = [&](auto pixel) {
    each_row(in, in, out, task, [&](const std::uint8_t *from, const std::uint8_t *, std::uint8_t *to) {
      to += first * out.item;
      for (std::int64_t x = 0; x < out.width; x++, from += n, to += step) pixel(from, to);
    });
  };
  if (entries) {
    const ByteTable map(entries);
    rows([&](const std::uint8_t *from, std::uint8_t *to) { map.run(from, n, to); });
  } else {
    rows([&](const std::uint8_t *from, std::uint8_t *to) { copy_bytes(from, n, to); });
  }
}

// ---- border ----------------------------------------------------------------------------------------------------------

void border(const Map &out, const Task &task) {
  const std::int64_t side = out.border_w * out.channels * out.item, inner = out.width * out.channels * out.item;
  if (out.border_h == 0 && side == 0) return;
  const auto fill = [&](std::uint8_t *to, std::int64_t n) { __builtin_memset(to, out.zero, static_cast<std::size_t>(n)); };
  each_piece(task, out.height + 2 * out.border_h, [&](std::int64_t sample, std::int64_t y) {
    std::uint8_t *row = task.out + sample * task.out_stride + y * out.row();
    if (y < out.border_h || y >= out.border_h + out.height) return fill(row, out.row());
    fill(row, side);
    fill(row + side + inner, side);
  });
}
