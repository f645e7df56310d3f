// A loaded model: checked, bounded, planned, and ready to run from any number of threads.
#ifndef BITSHIFT_SRC_MODEL_H
#define BITSHIFT_SRC_MODEL_H

#include <memory>
#include <string>

#include "file.h"
#include "runner.h"
#include "settings.h"

namespace bitshift {

struct Buffer {
  const void *data;
  std::size_t bytes;
};
struct MutableBuffer {
  void *data;
  std::size_t bytes;
};

class Model {
 public:
  // Throws ModelFileError for a bad file, UsageError when a limit is exceeded. `file` is not needed afterwards.
  Model(const ModelBytes &file, const Options &options);

  const std::vector<Value> &inputs() const { return inputs_; }
  const std::vector<Value> &outputs() const { return outputs_; }
  // Of the inputs: the integers that a call may hold.
  const std::vector<Range> &ranges() const { return ranges_; }
  // Bytes of activations and scratch memory of a run of one sample.
  std::size_t arena_bytes() const { return runner_->arena_bytes(); }
  // What a run does, in order; Event::step counts them.
  const std::vector<StepInfo> &steps() const { return steps_; }
  const std::string &isa() const { return isa_; }
  int threads() const { return runner_->threads(); }

  // Throws UsageError if an output has a byte in common with an input or another output: a batch may run in chunks, and the
  // outputs of one would overwrite the inputs of the next. One buffer for each input and output.
  void check_apart(const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const;

  // Runs `batch` samples that lie one behind the other in each buffer. Inputs are read where they are. Throws UsageError for
  // a wrong number or size of buffers, outputs that are not apart, and integers outside of an input's type.
  // events: where the times of all steps are added, or null.
  void run(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs,
           std::vector<Event> *events = nullptr) const;

 private:
  void check_buffers(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const;

  std::vector<Value> inputs_, outputs_;
  std::vector<Range> ranges_;
  std::vector<StepInfo> steps_;
  std::string isa_;
  std::unique_ptr<const Runner> runner_;
};

}  // namespace bitshift
#endif
