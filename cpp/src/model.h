// A loaded model: checked, bounded, planned, and ready to run from any number of threads.
#ifndef BITSHIFT_SRC_MODEL_H
#define BITSHIFT_SRC_MODEL_H

#include <memory>
#include <mutex>
#include <string>

#include "file.h"
#include "plan.h"

namespace bitshift {

// What a model may take, and how it runs. Empty and 0: the environment's word (BITSHIFT_THREADS, BITSHIFT_ISA, BITSHIFT_TUNE),
// else the default.
struct Options {
  std::uint64_t memory = std::uint64_t{2} << 30;  // bytes of inputs, activations and scratch memory of one sample
  std::uint64_t operations = std::uint64_t{1} << 50;
  int threads = 0;   // default: the processors in the affinity mask
  std::string isa;   // "avx512", "avxvnni", "avx2", "neon" or "portable"; default: the best that the processor has
  std::string tune;  // "auto", "off" or "force"; default: auto
};

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
  std::size_t arena_bytes() const { return plan_.arena; }

  // Runs `batch` samples that lie one behind the other in each buffer. Inputs are read where they are. Outputs must not
  // overlap inputs. Throws UsageError for a wrong number or size of buffers and for integers outside of an input's type.
  void run(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const;

 private:
  struct Workspace;
  std::unique_ptr<Workspace> borrow() const;
  void check_buffers(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const;

  std::vector<Value> inputs_, outputs_;
  std::vector<int> input_index_, output_index_;
  std::vector<Step> steps_;
  Plan plan_;
  // Arenas that no call is using: one a thread that has ever run this model at the same time.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;

 public:
  ~Model();
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;
};

}  // namespace bitshift
#endif
