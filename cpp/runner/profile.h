// What the steps of runs took: a recorder for bs_run_profiled, a table, a trace.
#ifndef BITSHIFT_RUNNER_PROFILE_H
#define BITSHIFT_RUNNER_PROFILE_H

#include <string>
#include <vector>

#include "bitshift/bitshift.h"

namespace runner {

// The value below which `share` of the numbers lie.
double quantile(std::vector<double> of, double share);

class Profile {
 public:
  explicit Profile(const bs_model *model);

  void begin_run() { runs_++; }
  // on_event of bs_run_profiled, with the profile as `user`.
  static void record(void *user, const bs_event *event);

  // A line a step: the median over the runs of the time of its slowest thread in one, its share and its rate.
  void print() const;
  // For chrome://tracing: one complete event for each of the engine's, in microseconds from the first.
  void write_trace(const std::string &path) const;

 private:
  struct Event : bs_event {
    std::size_t run;
  };
  std::vector<bs_step> steps_;
  std::vector<Event> events_;
  std::size_t runs_ = 0;
};

}  // namespace runner
#endif
