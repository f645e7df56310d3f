#include "profile.h"

#include <algorithm>
#include <cstdio>

#include "npy.h"

namespace runner {
namespace {

std::string json_text(const char *text) {
  std::string out = "\"";
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') out += '\\';
    out += static_cast<unsigned char>(*text) < 0x20 ? ' ' : *text;
  }
  return out + "\"";
}

// The module that a step comes from says more than the value that it makes.
const char *title(const bs_step &step) { return *step.source ? step.source : step.name; }

double microseconds(std::uint64_t begin, std::uint64_t end) { return static_cast<double>(end - begin) / 1e3; }

}  // namespace

double quantile(std::vector<double> of, double share) {
  if (of.empty()) return 0;
  std::sort(of.begin(), of.end());
  return of[static_cast<std::size_t>(share * static_cast<double>(of.size() - 1) + 0.5)];
}

Profile::Profile(const bs_model *model) : steps_(bs_step_count(model)) {
  for (std::size_t i = 0; i < steps_.size(); i++)
    if (bs_step_info(model, i, &steps_[i]) != BS_OK) throw Complaint(bs_last_error());
}

void Profile::record(void *user, const bs_event *event) {
  auto *self = static_cast<Profile *>(user);
  self->events_.push_back({*event, self->runs_ - 1});
}

void Profile::print() const {
  if (events_.empty()) return;
  const auto threads = static_cast<std::size_t>(
      std::max_element(events_.begin(), events_.end(), [](const Event &a, const Event &b) { return a.thread < b.thread; })->thread) + 1;
  std::vector<std::vector<double>> spent(steps_.size(), std::vector<double>(runs_));
  std::vector<double> samples(steps_.size());  // of all runs
  std::vector<double> each(steps_.size() * runs_ * threads);
  for (const Event &e : events_) {
    const auto thread = static_cast<std::size_t>(e.thread);
    double &mine = each[(e.step * runs_ + e.run) * threads + thread];
    mine += microseconds(e.begin_ns, e.end_ns);
    spent[e.step][e.run] = std::max(spent[e.step][e.run], mine);
    if (thread == 0 && e.phase == 0) samples[e.step] += static_cast<double>(e.samples);
  }
  std::vector<double> medians;
  double all = 0;
  for (const std::vector<double> &runs : spent) {
    medians.push_back(quantile(runs, 0.5));
    all += medians.back();
  }
  std::printf("%10s %6s %8s  %-12s %-16s %-9s %s\n", "us", "share", "GOP/s", "op", "kernel", "isa", "step");
  for (std::size_t i = 0; i < steps_.size(); i++) {
    const bs_step &s = steps_[i];
    const double operations = s.operations * samples[i] / static_cast<double>(runs_);
    std::printf("%10.1f %5.1f%% %8.1f  %-12s %-16s %-9s %s\n", medians[i], all > 0 ? 100 * medians[i] / all : 0.0,
                medians[i] > 0 ? operations / medians[i] / 1e3 : 0.0, s.op, s.kernel, s.isa, title(s));
  }
}

void Profile::write_trace(const std::string &path) const {
  std::string out = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  char numbers[200];
  std::uint64_t first = ~std::uint64_t{0};
  for (const Event &e : events_) first = std::min(first, e.begin_ns);
  const char *separator = "\n";
  for (const Event &e : events_) {
    const bs_step &s = steps_[e.step];
    std::snprintf(numbers, sizeof numbers, "\"tid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"run\": %zu, \"phase\": %d, \"samples\": %zu, ",
                  static_cast<int>(e.thread), microseconds(first, e.begin_ns), microseconds(e.begin_ns, e.end_ns), e.run, static_cast<int>(e.phase),
                  e.samples);
    out += separator + ("{\"name\": " + json_text(title(s))) + ", \"cat\": " + json_text(s.op) + ", \"ph\": \"X\", \"pid\": 1, " + numbers +
           "\"value\": " + json_text(s.name) + ", \"kernel\": " + json_text(s.kernel) + ", \"isa\": " + json_text(s.isa) + "}}";
    separator = ",\n";
  }
  out += "\n]}\n";
  write_file(path, std::vector<std::uint8_t>(out.begin(), out.end()));
}

}  // namespace runner
