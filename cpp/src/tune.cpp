#include "tune.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

#include "../simd/pack.h"
#include "pool.h"

namespace bitshift {
namespace {

using Clock = std::chrono::steady_clock;

// Rounds in turn over all candidates, so that a disturbance meets them alike; each counts with its best round.
constexpr int kRounds = 5;
// No new round for a layer behind this time.
constexpr auto kBudget = std::chrono::milliseconds(6);

std::string join(std::initializer_list<std::int64_t> numbers) {
  std::string out;
  for (std::int64_t v : numbers) out += (out.empty() ? "" : ",") + std::to_string(v);
  return out;
}

std::string text_of(const bsk_conv &g) {
  return join({g.in_c, g.in_h, g.in_w, g.out_c, g.out_h, g.out_w, g.groups, g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.dilation_h,
               g.dilation_w});
}

// What of rule 4 changes the code that runs.
std::string text_of(const simd::Requant &q) { return join({q.narrow, q.unit, q.residual ? q.res_item : 0, q.out_item}); }

std::string text_of(const simd::Weights &w) { return std::string(w.format->name) + " " + std::to_string(w.limit); }

std::size_t bytes_of(const simd::Map &map) { return static_cast<std::size_t>(map.bytes()); }

// Calls phase after phase on all threads of the pool, or alone while others use it: false.
bool run_once(Pool &pool, int phases, const std::function<void(int thread, int threads, int phase)> &run) {
  const auto job = [&](int thread, int threads) {
    for (int phase = 0; phase < phases; phase++) {
      run(thread, threads, phase);
      if (threads > 1) pool.barrier();
    }
  };
  const bool shared = pool.try_run([&](int thread) { job(thread, pool.threads()); });
  if (!shared) job(0, 1);
  return shared;
}

}  // namespace

Tuner::~Tuner() {
  if (measured_) save_kernels();
}

template <class Kernel>
std::string Tuner::key_of(const std::vector<const Kernel *> &candidates, const std::string &layer) const {
  std::string key = std::string(settings_.isa->name) + " T" + std::to_string(settings_.threads) + " " + layer;
  for (const Kernel *kernel : candidates) key += std::string(" ") + kernel->name;
  return key;
}

// Whether nothing needs to be measured: then `choice` is the kernel, null if there is none.
template <class Kernel>
bool Tuner::settled(const std::vector<const Kernel *> &candidates, const std::string &layer, const Kernel *&choice) const {
  choice = candidates.empty() ? nullptr : candidates.front();
  if (candidates.size() < 2 || settings_.tune == Tune::off) return true;
  if (settings_.tune == Tune::force) return false;
  const std::string known = cached_kernel(key_of(candidates, layer));
  const auto found = std::find_if(candidates.begin(), candidates.end(), [&](const Kernel *kernel) { return known == kernel->name; });
  if (found != candidates.end()) choice = *found;
  return found != candidates.end();
}

// `candidates` in the order of likely merit. scratch(kernel, threads): its bytes; run(kernel, scratch, thread, threads, phase).
template <class Kernel, class Scratch, class Run>
const Kernel *Tuner::fastest(const std::vector<const Kernel *> &candidates, const std::string &layer, Scratch scratch, Run run) {
  const std::shared_ptr<Pool> pool = shared_pool(settings_.threads);
  std::size_t most = 0;
  for (const Kernel *kernel : candidates) most = std::max({most, scratch(*kernel, 1), scratch(*kernel, settings_.threads)});
  const simd::AlignedBytes memory(most + 64);
  std::vector<Clock::duration> best(candidates.size(), Clock::duration::max());
  const auto end = Clock::now() + kBudget;
  bool shared = true;
  for (int round = -1; round < kRounds && (round <= 0 || Clock::now() < end); round++) {
    for (std::size_t i = 0; i < candidates.size(); i++) {
      const auto begin = Clock::now();
      shared &= run_once(*pool, candidates[i]->phases, [&](int thread, int threads, int phase) { run(*candidates[i], memory.data(), thread, threads, phase); });
      if (round >= 0) best[i] = std::min(best[i], Clock::now() - begin);  // the first round warms up
    }
  }
  const Kernel *winner = candidates[static_cast<std::size_t>(std::min_element(best.begin(), best.end()) - best.begin())];
  if (shared) {
    remember_kernel(key_of(candidates, layer), winner->name);
    measured_ = true;
  }
  return winner;
}

namespace {

template <class Kernel, class Can>
std::vector<const Kernel *> able(const std::vector<const Kernel *> &kernels, Can can) {
  std::vector<const Kernel *> out;
  std::copy_if(kernels.begin(), kernels.end(), std::back_inserter(out), can);
  return out;
}

// Rows, one behind the other.
simd::Task rows_task(const simd::AlignedBytes &in, const simd::AlignedBytes &res, const simd::AlignedBytes &out, std::int64_t rows) {
  simd::Task task;
  task.in = in.data();
  task.residual = res.data();
  task.out = out.data();
  task.in_stride = static_cast<std::int64_t>(in.size()) / rows;
  task.res_stride = static_cast<std::int64_t>(res.size()) / rows;
  task.out_stride = static_cast<std::int64_t>(out.size()) / rows;
  task.samples = rows;
  return task;
}

simd::Task on_thread(simd::Task task, std::uint8_t *scratch, int thread, int threads) {
  task.scratch = scratch;
  task.thread = thread;
  task.threads = threads;
  return task;
}

}  // namespace

const simd::ConvKernel *Tuner::choose(const simd::ConvLayer &layer) {
  const auto candidates = able(settings_.isa->conv, [&](const simd::ConvKernel *k) { return k->can(layer); });
  const std::string text = "conv " + text_of(layer.g) + " " + text_of(layer.w) + " " + text_of(layer.q) + " " + join({layer.in.border_w, layer.out.border_w});
  if (const simd::ConvKernel *choice; settled(candidates, text, choice)) return choice;
  const simd::AlignedBytes in(bytes_of(layer.in)), out(bytes_of(layer.out)), res(layer.q.residual ? bytes_of(layer.res) : 0);
  const simd::Task task = rows_task(in, res, out, 1);
  return fastest(
      candidates, text, [&](const simd::ConvKernel &k, int threads) { return k.scratch(layer, 1, threads); },
      [&](const simd::ConvKernel &k, std::uint8_t *scratch, int thread, int threads, int phase) {
        k.run(layer, on_thread(task, scratch, thread, threads), phase);
      });
}

const simd::LinearKernel *Tuner::choose(const simd::LinearLayer &layer, RowRange range) {
  const std::int64_t rows = range.tried;
  const auto candidates = able(settings_.isa->linear, [&](const simd::LinearKernel *k) { return k->can(layer, range.least) && k->can(layer, range.most); });
  const std::string text = "linear " + join({layer.in, layer.out, rows, layer.signed_in}) + " " + text_of(layer.w) + " " + text_of(layer.q);
  if (const simd::LinearKernel *choice; settled(candidates, text, choice)) return choice;
  const auto bytes = [&](std::int64_t row, int item) { return static_cast<std::size_t>(rows * row * std::abs(item)); };
  const simd::AlignedBytes in(bytes(layer.in, 1)), out(bytes(layer.out, layer.q.out_item)), res(layer.q.residual ? bytes(layer.out, layer.q.res_item) : 0);
  const simd::Task task = rows_task(in, res, out, rows);
  return fastest(
      candidates, text, [&](const simd::LinearKernel &k, int threads) { return k.scratch(layer, rows, threads); },
      [&](const simd::LinearKernel &k, std::uint8_t *scratch, int thread, int threads, int phase) {
        k.run(layer, on_thread(task, scratch, thread, threads), phase);
      });
}

const simd::FloatKernel *Tuner::choose(const simd::FloatLayer &layer, RowRange range) {
  const std::int64_t rows = range.tried;
  const auto candidates = able(settings_.isa->floats, [&](const simd::FloatKernel *k) { return k->can(layer, range.least) && k->can(layer, range.most); });
  const std::string text = std::string("float ") + (layer.linear ? "linear " : "conv ") + text_of(layer.g) + " " + std::to_string(rows) + " " + text_of(layer.w);
  if (const simd::FloatKernel *choice; settled(candidates, text, choice)) return choice;
  const std::int64_t in_size = layer.linear ? layer.g.in_c : layer.g.in_c * layer.g.in_h * layer.g.in_w;
  const std::int64_t out_size = layer.linear ? layer.g.out_c : layer.g.out_c * layer.g.out_h * layer.g.out_w;
  const auto bytes = [&](std::int64_t size) { return static_cast<std::size_t>(rows * size) * sizeof(float); };
  const simd::AlignedBytes in(bytes(in_size)), out(bytes(out_size)), res;
  const simd::Task task = rows_task(in, res, out, rows);
  return fastest(
      candidates, text, [&](const simd::FloatKernel &k, int threads) { return k.scratch(layer, rows, threads); },
      [&](const simd::FloatKernel &k, std::uint8_t *scratch, int thread, int threads, int phase) {
        k.run(layer, on_thread(task, scratch, thread, threads), phase);
      });
}

}  // namespace bitshift
