// Runs a program on batches, from any number of threads at once.
#ifndef BITSHIFT_SRC_RUNNER_H
#define BITSHIFT_SRC_RUNNER_H

#include <map>
#include <memory>
#include <vector>

#include "fork_mutex.h"
#include "plan.h"
#include "pool.h"

namespace bitshift {

// One thread's work on one phase of a step, in nanoseconds of std::chrono::steady_clock. From `end` to the next event's begin
// the thread waited for the others.
struct Event {
  std::int32_t step = 0, phase = 0, thread = 0;
  std::int64_t samples = 0, begin = 0, end = 0;
};

class Runner {
 public:
  // memory: the limit of the arena; operations: of a sample. Throws UsageError if one sample needs more memory.
  Runner(Program program, const Settings &settings, std::uint64_t memory, double operations);
  ~Runner();

  const Program &program() const { return program_; }
  int threads() const { return pool_->threads(); }
  // Of the arena that a run of one sample needs.
  std::size_t arena_bytes() const { return single_->arena; }

  struct Ends {
    std::vector<const std::uint8_t *> inputs;  // aligned to their elements
    std::vector<std::uint8_t *> outputs;
    std::vector<std::size_t> output_bytes;     // of a sample
  };
  // events: where to put the times of all steps, or null.
  void run(std::size_t batch, const Ends &ends, std::vector<Event> *events) const;

 private:
  struct Workspace;
  std::shared_ptr<const Plan> plan_for(std::size_t batch) const;
  std::unique_ptr<Workspace> borrow(std::shared_ptr<const Plan> plan) const;
  void give_back(std::unique_ptr<Workspace> workspace) const;

  const Program program_;
  const std::shared_ptr<Pool> pool_;
  const std::uint64_t memory_;
  const double share_from_;  // samples
  std::shared_ptr<const Plan> single_;
  std::int64_t most_samples_ = 1;  // of a chunk
  // Plans by samples, and the memory that no call is using: one workspace a thread that has ever run this program at the same time.
  mutable ForkMutex mutex_;
  mutable std::map<std::int64_t, std::shared_ptr<const Plan>> plans_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace bitshift
#endif
