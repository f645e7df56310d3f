#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "../simd/pack.h"
#include "error.h"

namespace bitshift {
namespace {

// A chunk of samples keeps its activations in the caches near a processor, and lets weights be decoded once for all of them.
constexpr std::size_t kArenaBudget = std::size_t{4} << 20;
constexpr std::int64_t kMostSamples = 1024;

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least n: few plans serve all batches.
std::int64_t rounded_up(std::int64_t n) {
  for (std::int64_t power = 1;; power *= 2) {
    if (n <= power) return power;
    if (power > 1 && n <= power / 2 * 3) return power / 2 * 3;
  }
}

}  // namespace

// The memory of one call.
struct Runner::Workspace {
  simd::AlignedBytes memory;
  std::shared_ptr<const Plan> plan;
  std::vector<std::uint8_t *> base;  // by area, but for those with the caller
  std::vector<std::size_t> stride;
  std::int64_t bordered = 0;         // samples of kept areas that have their border
};

Runner::~Runner() = default;

Runner::Runner(Program program, const Settings &settings, std::uint64_t memory, double operations)
    : program_(std::move(program)),
      pool_(shared_pool(settings.threads)),
      memory_(memory),
      share_from_(settings.share_from / std::max(operations, 1.0)) {
  single_ = std::make_shared<const Plan>(make_plan(program_, 1, threads(), memory));
  plans_[1] = single_;
  const std::size_t one = std::max<std::size_t>(single_->arena, 1), budget = static_cast<std::size_t>(std::min<std::uint64_t>(kArenaBudget, memory));
  most_samples_ = std::clamp<std::int64_t>(static_cast<std::int64_t>(budget / one), 1, kMostSamples);
}

// Chunks of equal size, none larger than the budget allows.
std::shared_ptr<const Plan> Runner::plan_for(std::size_t batch) const {
  const auto whole = static_cast<std::int64_t>(std::min<std::size_t>(batch, std::size_t{1} << 40));
  const std::int64_t chunks = (whole + most_samples_ - 1) / most_samples_;
  std::int64_t samples = std::min(rounded_up((whole + chunks - 1) / chunks), most_samples_);
  const std::lock_guard<ForkMutex> lock(mutex_);
  for (;; samples /= 2) {
    std::shared_ptr<const Plan> &plan = plans_[samples];
    if (plan) return plan;
    try {
      return plan = std::make_shared<const Plan>(make_plan(program_, samples, threads(), memory_));
    } catch (const UsageError &) {  // one sample fits: fewer at once
      plan = nullptr;
    }
  }
}

std::unique_ptr<Runner::Workspace> Runner::borrow(std::shared_ptr<const Plan> plan) const {
  std::unique_ptr<Workspace> w;
  {
    const std::lock_guard<ForkMutex> lock(mutex_);
    const auto fits = std::find_if(idle_.rbegin(), idle_.rend(), [&](const auto &idle) { return idle->plan == plan; });
    if (fits != idle_.rend()) {
      w = std::move(*fits);
      idle_.erase(std::next(fits).base());
      return w;
    }
    if (!idle_.empty()) {
      w = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!w) w = std::make_unique<Workspace>();
  w->plan = nullptr;  // in case memory is refused now
  // Behind the last area a kernel may read a vector too far.
  if (w->memory.size() < plan->arena + kAlignment) {
    w->memory = {};
    w->memory = simd::AlignedBytes(plan->arena + kAlignment);
  }
  w->bordered = 0;
  w->base.assign(program_.areas.size(), nullptr);
  w->stride.resize(program_.areas.size());
  for (std::size_t a = 0; a < program_.areas.size(); a++) {
    const Area &area = program_.areas[a];
    w->stride[a] = area.stride;
    const auto root = static_cast<std::size_t>(area.root);
    if (program_.areas[root].input < 0) w->base[a] = w->memory.data() + plan->offset[root];
  }
  w->plan = std::move(plan);
  return w;
}

void Runner::give_back(std::unique_ptr<Workspace> workspace) const {
  const std::lock_guard<ForkMutex> lock(mutex_);
  idle_.push_back(std::move(workspace));
}

void Runner::run(std::size_t batch, const Ends &ends, std::vector<Event> *events) const {
  if (!batch) return;
  std::unique_ptr<Workspace> workspace = borrow(plan_for(batch));
  Workspace &w = *workspace;
  const Plan &plan = *w.plan;
  const std::size_t capacity = static_cast<std::size_t>(plan.samples), chunks = (batch + capacity - 1) / capacity;

  // By thread; filled without allocation.
  std::vector<std::vector<Event>> recorded(events ? static_cast<std::size_t>(threads()) : 0);
  std::size_t phases = 0;
  for (const Step &step : program_.steps) phases += static_cast<std::size_t>(step.phases);
  for (auto &list : recorded) list.reserve(phases * chunks);

  const auto work = [&](int thread, int count) {
    const auto barrier = [&] {
      if (count > 1) pool_->barrier();
    };
    // Where the areas are, for this thread: inputs move along from chunk to chunk.
    std::vector<std::uint8_t *> &base = w.base;
    for (std::size_t first = 0, chunk = 0; first < batch; first += capacity, chunk++) {
      const std::size_t samples = std::min(capacity, batch - first);
      if (thread == 0) {
        for (std::size_t a = 0; a < base.size(); a++) {
          const Area &area = program_.areas[a];
          const int input = program_.areas[static_cast<std::size_t>(area.root)].input;
          // No step writes to a graph input: each value has one writer, and inputs have none.
          if (input >= 0) base[a] = const_cast<std::uint8_t *>(ends.inputs[static_cast<std::size_t>(input)]) + first * area.stride;
        }
      }
      barrier();
      Frame frame{base.data(), w.stride.data(), plan.kept.data(), static_cast<std::int64_t>(samples), w.bordered, nullptr, thread, count};
      for (std::size_t s = 0; s < program_.steps.size(); s++) {
        const Step &step = program_.steps[s];
        frame.scratch = w.memory.data() + plan.scratch[s];
        for (int phase = 0; phase < step.phases; phase++) {
          if (events) {
            const std::int64_t begin = now();
            step.run(frame, phase);
            recorded[static_cast<std::size_t>(thread)].push_back(
                {static_cast<std::int32_t>(s), phase, thread, frame.samples, begin, now()});
          } else {
            step.run(frame, phase);
          }
          barrier();
        }
      }
      if (thread == 0) {
        w.bordered = std::max(w.bordered, frame.samples);
        for (std::size_t i = 0; i < program_.outputs.size(); i++) {
          const auto area = static_cast<std::size_t>(program_.outputs[i]);
          const std::size_t bytes = ends.output_bytes[i];
          for (std::size_t n = 0; n < samples; n++) std::memcpy(ends.outputs[i] + (first + n) * bytes, base[area] + n * w.stride[area], bytes);
        }
      }
    }
  };
  const bool alone = threads() == 1 || static_cast<double>(batch) < share_from_;
  if (alone || !pool_->try_run([&](int thread) { work(thread, threads()); })) work(0, 1);

  if (events)
    for (const auto &list : recorded) events->insert(events->end(), list.begin(), list.end());
  give_back(std::move(workspace));
}

}  // namespace bitshift
