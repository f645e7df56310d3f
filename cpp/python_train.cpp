// bitshift._engine.train: the training kernels for bitshift/nn/kernels/cpu.py, which has checked shapes, types and layouts and
// passes addresses: a call then costs a microsecond, where the exchange of an array costs ten.
#include "python_train.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "src/pool.h"
#include "train/kernels.h"

namespace nb = nanobind;
namespace tr = bitshift::train;

namespace {

using Address = std::uintptr_t;  // 0: no array

template <class T>
T *at(Address address) {
  return reinterpret_cast<T *>(address);  // NOLINT: what this module is for
}

const void *in(Address address) { return at<const void>(address); }
void *out(Address address) { return at<void>(address); }

// Calls job(begin, end, thread) for parts of [0, count), on at most `threads` threads; parts are no smaller than `grain`, and begin at
// its multiples. Returns how many parts there were. Sums of parts depend on `threads` only through where the parts begin.
int share(int threads, std::size_t count, std::size_t grain, const std::function<void(std::size_t, std::size_t, int)> &job) {
  const std::size_t grains = (count + grain - 1) / grain;
  const int parts = static_cast<int>(std::max<std::size_t>(1, std::min(grains, static_cast<std::size_t>(std::max(threads, 1)))));
  const auto part = [&](int i) {
    const auto n = static_cast<std::size_t>(parts), k = static_cast<std::size_t>(i);
    const std::size_t begin = std::min(count, grains * k / n * grain), end = std::min(count, grains * (k + 1) / n * grain);
    if (begin < end) job(begin, end, i);
  };
  if (parts > 1) {
    const std::shared_ptr<bitshift::Pool> pool = bitshift::shared_pool(parts);
    if (pool->try_run(part)) return parts;
  }
  for (int i = 0; i < parts; i++) part(i);
  return parts;
}

// Large results are fresh memory: in large pages their first touch costs a quarter. Only a hint; nothing hangs on it.
void fresh(Address address, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t page = std::size_t{1} << 21;
  const Address begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
  if (begin + 2 * page <= end) (void)madvise(at<void>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)address;
  (void)bytes;
#endif
}

constexpr std::size_t kGrain = 1 << 16;  // elements that are worth another thread

tr::Real real_of(int code) {
  if (code != 0 && code != 1) throw nb::value_error("the element type must be 0 (float32) or 1 (bfloat16)");
  return static_cast<tr::Real>(code);
}

// One sum for each thread, added in order.
class Sums {
 public:
  explicit Sums(int threads) : parts_(static_cast<std::size_t>(std::max(threads, 1))) {}
  void set(int thread, double value) { parts_[static_cast<std::size_t>(thread)] = value; }
  double total() const { return std::accumulate(parts_.begin(), parts_.end(), 0.0); }

 private:
  std::vector<double> parts_;
};

void grid_forward(int real, Address x, Address y, std::size_t n, float step, float lo, float hi, int threads) {
  const tr::Real type = real_of(real);
  const tr::Grid grid{step, 1.0f / step, lo, hi};
  const std::size_t size = tr::size_of(type);
  nb::gil_scoped_release released;
  fresh(y, n * size);
  share(threads, n, kGrain, [&](std::size_t b, std::size_t e, int) { tr::grid_forward(type, in(x + b * size), out(y + b * size), e - b, grid); });
}

double grid_backward(int real, Address g, Address x, Address dx, std::size_t n, float step, float lo, float hi, int threads) {
  const tr::Real type = real_of(real);
  const tr::Grid grid{step, 1.0f / step, lo, hi};
  const std::size_t size = tr::size_of(type);
  Sums sums(threads);
  nb::gil_scoped_release released;
  fresh(dx, n * size);
  share(threads, n, kGrain, [&](std::size_t b, std::size_t e, int i) {
    sums.set(i, tr::grid_backward(type, in(g + b * size), in(x + b * size), out(dx + b * size), e - b, grid));
  });
  return sums.total();
}

// sums: (2, channels) doubles, overwritten.
void channel_sums(int real, Address a, Address b, Address shift, bool centre_a, std::size_t outer, std::size_t channels, std::size_t inner,
                  Address sums, int threads) {
  const tr::Real type = real_of(real);
  const tr::Channels shape{outer, channels, inner};
  std::vector<double> parts(2 * channels * static_cast<std::size_t>(std::max(threads, 1)));
  nb::gil_scoped_release released;
  const std::size_t grain = std::max<std::size_t>(1, kGrain / std::max<std::size_t>(1, channels * inner));
  const int n = share(threads, outer, grain, [&](std::size_t begin, std::size_t end, int i) {
    double *own = parts.data() + 2 * channels * static_cast<std::size_t>(i);
    tr::channel_sums(type, in(a), in(b), at<const float>(shift), centre_a, shape, begin, end, own, own + channels);
  });
  double *to = at<double>(sums);
  for (std::size_t c = 0; c < 2 * channels; c++) {
    to[c] = 0;
    for (int i = 0; i < n; i++) to[c] += parts[2 * channels * static_cast<std::size_t>(i) + c];
  }
}

void channel_map(int real, Address x, Address y, Address mean, Address gain, Address beta, std::size_t outer, std::size_t channels,
                 std::size_t inner, int threads) {
  const tr::Real type = real_of(real);
  const tr::Channels shape{outer, channels, inner};
  nb::gil_scoped_release released;
  fresh(y, outer * channels * inner * tr::size_of(type));
  const std::size_t grain = std::max<std::size_t>(1, kGrain / std::max<std::size_t>(1, channels * inner));
  share(threads, outer, grain, [&](std::size_t begin, std::size_t end, int) {
    tr::channel_map(type, in(x), out(y), at<const float>(mean), at<const float>(gain), at<const float>(beta), shape, begin, end);
  });
}

void channel_map_backward(int real, Address g, Address x, Address dx, Address mean, Address a, Address b, Address d, std::size_t outer,
                          std::size_t channels, std::size_t inner, int threads) {
  const tr::Real type = real_of(real);
  const tr::Channels shape{outer, channels, inner};
  nb::gil_scoped_release released;
  fresh(dx, outer * channels * inner * tr::size_of(type));
  const std::size_t grain = std::max<std::size_t>(1, kGrain / std::max<std::size_t>(1, channels * inner));
  share(threads, outer, grain, [&](std::size_t begin, std::size_t end, int) {
    tr::channel_map_backward(type, in(g), in(x), out(dx), at<const float>(mean), at<const float>(a), at<const float>(b), at<const float>(d),
                             shape, begin, end);
  });
}

tr::Weights weights(std::size_t channels, std::size_t inner, Address scale) { return {channels, inner, at<const float>(scale)}; }

double gate_forward(int real, Address latents, int count, std::size_t channels, std::size_t inner, Address scale, Address values,
                    bool negative, Address weight, Address pattern, int threads) {
  const tr::Real type = real_of(real);
  if (count < 1 + negative || count > 8) throw nb::value_error("gate_forward: 1 to 8 latents");
  Sums sums(threads);
  nb::gil_scoped_release released;
  fresh(weight, channels * inner * 4);
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int i) {
    sums.set(i, tr::gate_forward(type, in(latents), count, weights(channels, inner, scale), at<const float>(values), negative,
                                 at<float>(weight), at<std::uint8_t>(pattern), begin, end));
  });
  return sums.total();
}

void gate_backward(int real, Address g, Address pattern, int count, std::size_t channels, std::size_t inner, Address scale, Address slopes,
                   Address latents, float push, Address to, int threads) {
  const tr::Real type = real_of(real);
  if (count < 1 + (push != 0) || count > 8) throw nb::value_error("gate_backward: 1 to 8 latents");
  nb::gil_scoped_release released;
  fresh(to, static_cast<std::size_t>(count) * channels * inner * tr::size_of(type));
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int) {
    tr::gate_backward(type, at<const float>(g), at<const std::uint8_t>(pattern), count, weights(channels, inner, scale),
                      at<const float>(slopes), in(latents), push, out(to), begin, end);
  });
}

void level_forward(int real, Address latent, std::size_t channels, std::size_t inner, Address scale, Address levels, Address thresholds,
                   int count, float top, Address weight, int threads) {
  const tr::Real type = real_of(real);
  const tr::Levels table{at<const float>(levels), at<const float>(thresholds), count, top};
  nb::gil_scoped_release released;
  fresh(weight, channels * inner * 4);
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int) {
    tr::level_forward(type, in(latent), weights(channels, inner, scale), table, at<float>(weight), begin, end);
  });
}

// sums: one double a channel, overwritten; or 0.
void level_backward(int real, Address g, Address latent, std::size_t channels, std::size_t inner, Address scale, Address levels,
                    Address thresholds, int count, float top, Address to, Address sums, int threads) {
  const tr::Real type = real_of(real);
  const tr::Levels table{at<const float>(levels), at<const float>(thresholds), count, top};
  std::vector<double> parts(sums ? channels * static_cast<std::size_t>(std::max(threads, 1)) : 0);
  nb::gil_scoped_release released;
  fresh(to, channels * inner * tr::size_of(type));
  const int n = share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int i) {
    double *own = sums ? parts.data() + channels * static_cast<std::size_t>(i) : nullptr;
    tr::level_backward(type, at<const float>(g), in(latent), weights(channels, inner, scale), table, out(to), own, begin, end);
  });
  if (!sums) return;
  for (std::size_t c = 0; c < channels; c++) {
    double total = 0;
    for (int i = 0; i < n; i++) total += parts[channels * static_cast<std::size_t>(i) + c];
    at<double>(sums)[c] = total;
  }
}

void power_forward(int real, Address latent, std::size_t channels, std::size_t inner, Address low, Address high, Address weight,
                   int threads) {
  const tr::Real type = real_of(real);
  nb::gil_scoped_release released;
  fresh(weight, channels * inner * 4);
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int) {
    tr::power_forward(type, in(latent), inner, at<const float>(low), at<const float>(high), at<float>(weight), begin, end);
  });
}

double shift_sign_forward(int real, Address shift, Address sign, std::size_t channels, std::size_t inner, Address top, int low,
                          bool squares, Address weight, int threads) {
  const tr::Real type = real_of(real);
  Sums sums(threads);
  nb::gil_scoped_release released;
  fresh(weight, channels * inner * 4);
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int i) {
    sums.set(i, tr::shift_sign_forward(type, in(shift), in(sign), inner, at<const std::int32_t>(top), low, squares, at<float>(weight), begin,
                                       end));
  });
  return sums.total();
}

void shift_sign_backward(int real, Address g, Address weight, Address shift, std::size_t channels, std::size_t inner, Address scale,
                         float push, Address d_shift, Address d_sign, int threads) {
  const tr::Real type = real_of(real);
  nb::gil_scoped_release released;
  fresh(d_shift, channels * inner * tr::size_of(type));
  fresh(d_sign, channels * inner * tr::size_of(type));
  share(threads, channels * inner, kGrain, [&](std::size_t begin, std::size_t end, int) {
    tr::shift_sign_backward(type, at<const float>(g), at<const float>(weight), in(shift), weights(channels, inner, scale), push,
                            out(d_shift), out(d_sign), begin, end);
  });
}

void rounded_sgd(Address g, Address p, Address m, std::size_t n, float lr, float momentum, float decay, bool nesterov, std::uint32_t key,
                 int threads) {
  if (n >> 32) throw nb::value_error("rounded_sgd: fewer than 2^32 elements");
  const tr::Rate rate{lr, momentum, decay, nesterov};
  nb::gil_scoped_release released;
  share(threads, n, kGrain, [&](std::size_t begin, std::size_t end, int) { tr::rounded_sgd(in(g), out(p), out(m), rate, key, begin, end); });
}

}  // namespace

void bind_train(nb::module_ &m) {
  nb::module_ sub = m.def_submodule("train", "Training kernels on addresses; only bitshift/nn/kernels/cpu.py calls them.");
  sub.attr("version") = 4;  // one more with each change of a signature; cpu.py has its twin
  sub.def("grid_forward", &grid_forward, "y = clamp(floor(x / step + 1/2), lo, hi) * step");
  sub.def("grid_backward", &grid_backward, "The gradient for x; returns the sum that the step's gradient is made of.");
  sub.def("channel_sums", &channel_sums, "Sums of a, and of (a - shift) * (b - shift), per channel.");
  sub.def("channel_map", &channel_map, "y = (x - mean) * gain + beta");
  sub.def("channel_map_backward", &channel_map_backward, "dx = g * a + (x - mean) * b + d");
  sub.def("gate_forward", &gate_forward, "Weight and sign pattern of stacked latents.");
  sub.def("gate_backward", &gate_backward, "Gradients of stacked latents.");
  sub.def("level_forward", &level_forward, "weight = level(latent / scale) * scale");
  sub.def("level_backward", &level_backward, "Clipped straight-through gradient, and the sums of the scale's.");
  sub.def("power_forward", &power_forward, "The nearest power of two in the log domain.");
  sub.def("shift_sign_forward", &shift_sign_forward, "Weight of a shift and a sign.");
  sub.def("rounded_sgd", &rounded_sgd, "A step of SGD on bfloat16, rounded stochastically.");
  sub.def("shift_sign_backward", &shift_sign_backward, "Gradients of a shift and a sign.");
}
