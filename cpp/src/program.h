// A graph made ready for this machine: where every value lies and in which form, and the steps that compute them.
//
// A value has up to two forms: planar (channels first, as the model file says) and a map (simd/common.h). Each form is an area.
// Samples lie one behind the other in an area, so that a step works on several samples at once.
#ifndef BITSHIFT_SRC_PROGRAM_H
#define BITSHIFT_SRC_PROGRAM_H

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops.h"
#include "settings.h"

namespace bitshift {

// What a thread needs to do its part of a step: where the areas are, how many samples, its scratch memory.
struct Frame {
  std::uint8_t *const *base;  // by area: sample 0
  const std::size_t *stride;  // by area: bytes from a sample to the next
  const std::uint8_t *kept;   // by area: whether nothing but its own step writes there, so that a border stays
  std::int64_t samples;
  std::int64_t bordered;      // samples of kept areas that have their border already
  std::uint8_t *scratch;      // 64-byte aligned, shared by the threads of the step
  int thread, threads;

  bool needs_border(int area) const { return !kept[static_cast<std::size_t>(area)] || samples > bordered; }
  // For a kernel that reads area `in` (and `residual`, if not -1) and writes `out`.
  simd::Task task(int in, int residual, int out) const;
};

// A step as people see it. Figures are those of one sample.
struct StepInfo {
  std::string name;    // of the value it makes
  std::string op;      // of its node; "convert" between forms
  std::string source;  // the module it came from
  std::string kernel, isa;
  int phases = 1;
  double operations = 0;  // a multiply-add counts two
  std::size_t in_bytes = 0, out_bytes = 0, weight_bytes = 0;
};

// One call of a kernel. Every thread calls run for each phase in turn; all finish a phase before any begins the next.
struct Step : StepInfo {
  std::function<void(const Frame &, int phase)> run;
  std::function<std::size_t(std::int64_t samples, int threads)> scratch;  // empty: none
  std::vector<int> reads;
  int writes = -1;
};

struct Area {
  std::size_t stride = 0;
  int root = -1;        // the area whose bytes it shares: itself, or the source of a chain of reshapes
  int input = -1;       // lies with the caller: the index of the graph input
  bool border = false;  // its step writes a border
};

struct Program {
  std::vector<Area> areas;  // [0, values of the graph): planar forms, by value; behind them maps
  std::vector<Step> steps;
  std::vector<int> outputs;  // areas of the graph's outputs, in order
};

// `packed(node)` is called when a node's constants are not needed any more.
Program make_program(const Graph &graph, const std::vector<Bound> &bounds, const Settings &settings,
                     const std::function<void(const Node &)> &packed);

}  // namespace bitshift
#endif
