#include "model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "error.h"
#include "modelfile.h"

namespace bitshift {

// The memory of one call.
struct Model::Workspace {
  explicit Workspace(std::size_t bytes) : memory(bytes + kAlignment), values() {
    const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
    arena = memory.data() + (kAlignment - at % kAlignment) % kAlignment;
  }
  std::vector<std::uint8_t> memory;
  std::uint8_t *arena;
  std::vector<void *> values;               // by value
  std::vector<std::vector<std::uint32_t>> aligned;  // copies of inputs that lie at odd addresses
};

Model::~Model() = default;

Model::Model(const ModelBytes &file, const Options &options) {
  const Graph graph = read_model(file);
  const std::vector<Bound> bounds = check_bounds(graph);
  Magnitude operations;
  for (const Node &node : graph.nodes) operations = operations + node.op->operations(graph, node);
  if (operations.value() > options.operations)
    throw UsageError("one sample needs " + operations.text() + " operations; the limit is " + std::to_string(options.operations));
  // Inputs lie with the caller, but a file that asks for terabytes of them is refused like any other.
  Magnitude held;
  for (int index : graph.inputs) held = held + Magnitude(graph.values[static_cast<std::size_t>(index)].bytes());
  if (held.value() > options.memory)
    throw UsageError("the inputs of one sample need " + held.text() + " bytes; the memory limit is " + std::to_string(options.memory));
  for (std::size_t i = 0; i < graph.nodes.size(); i++) {
    steps_.push_back(graph.nodes[i].op->compile(graph, graph.nodes[i], bounds[i]));
    if (steps_.back().scratch > options.memory)
      throw UsageError(graph.place(graph.nodes[i]) + " needs " + std::to_string(steps_.back().scratch) + " bytes of scratch memory; the memory limit is " +
                       std::to_string(options.memory));
    if (const Constant *codes = graph.constant(graph.nodes[i], Role::codes))
      file.release(codes->codes.data, static_cast<std::size_t>(codes->codes.bytes()));
  }
  plan_ = make_plan(graph, steps_, options.memory - static_cast<std::uint64_t>(held.value()));
  input_index_ = graph.inputs;
  output_index_ = graph.outputs;
  for (int index : input_index_) inputs_.push_back(graph.values[static_cast<std::size_t>(index)]);
  for (int index : output_index_) outputs_.push_back(graph.values[static_cast<std::size_t>(index)]);
}

std::unique_ptr<Model::Workspace> Model::borrow() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      auto workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  auto workspace = std::make_unique<Workspace>(plan_.arena);
  for (std::size_t offset : plan_.offset) workspace->values.push_back(workspace->arena + offset);
  workspace->aligned.resize(inputs_.size());
  return workspace;
}

void Model::check_buffers(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const {
  auto check = [batch](const char *kind, const Value &value, std::size_t bytes, const void *data) {
    const std::size_t one = value.bytes();
    if (batch > std::numeric_limits<std::size_t>::max() / one || bytes != batch * one || (bytes && !data))
      throw UsageError(std::string(kind) + " " + quoted(value.name) + " has " + std::to_string(bytes) + " bytes; " + std::to_string(batch) +
                       " samples of " + shape_text(value.shape) + " " + value.type.text() + " need " + std::to_string(one) + " each");
  };
  if (inputs.size() != inputs_.size() || outputs.size() != outputs_.size())
    throw UsageError(std::to_string(inputs.size()) + " inputs and " + std::to_string(outputs.size()) + " outputs given; the model has " +
                     std::to_string(inputs_.size()) + " and " + std::to_string(outputs_.size()));
  for (std::size_t i = 0; i < inputs.size(); i++) {
    const Value &value = inputs_[i];
    check("input", value, inputs[i].bytes, inputs[i].data);
    // The bounds hold for integers in the range of the type only, and a type may be narrower than its storage.
    const bsk_dtype dtype = value.type.dtype();
    const int storage = static_cast<int>(bsk_dtype_size(dtype)) * 8;
    if (value.type.real || value.type.bits == storage || !inputs[i].bytes) continue;
    const bool aligned = reinterpret_cast<std::uintptr_t>(inputs[i].data) % bsk_dtype_size(dtype) == 0;
    std::vector<std::uint32_t> copy;
    const void *data = inputs[i].data;
    if (!aligned) {
      copy.resize(inputs[i].bytes / 4 + 1);
      std::memcpy(copy.data(), data, inputs[i].bytes);
      data = copy.data();
    }
    if (!bsk_in_range(data, dtype, static_cast<std::int32_t>(value.type.lo()), static_cast<std::int32_t>(value.type.hi()),
                      inputs[i].bytes / bsk_dtype_size(dtype)))
      throw UsageError("input " + quoted(value.name) + " holds integers outside of " + value.type.text() + ", which goes from " +
                       std::to_string(value.type.lo()) + " to " + std::to_string(value.type.hi()));
  }
  for (std::size_t i = 0; i < outputs.size(); i++) check("output", outputs_[i], outputs[i].bytes, outputs[i].data);
}

void Model::run(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const {
  check_buffers(batch, inputs, outputs);
  std::unique_ptr<Workspace> workspace = borrow();
  Workspace &w = *workspace;
  for (std::size_t sample = 0; sample < batch; sample++) {
    for (std::size_t i = 0; i < inputs.size(); i++) {
      const std::size_t bytes = inputs_[i].bytes(), item = bsk_dtype_size(inputs_[i].type.dtype());
      const auto *at = static_cast<const std::uint8_t *>(inputs[i].data) + sample * bytes;
      const void *source = at;
      if (reinterpret_cast<std::uintptr_t>(at) % item) {
        w.aligned[i].resize(bytes / 4 + 1);
        std::memcpy(w.aligned[i].data(), at, bytes);
        source = w.aligned[i].data();
      }
      // No step writes to a graph input: each value has one writer, and inputs have none.
      w.values[static_cast<std::size_t>(input_index_[i])] = const_cast<void *>(source);
    }
    for (std::size_t v = 0; v < w.values.size(); v++) w.values[v] = w.values[static_cast<std::size_t>(plan_.root[v])];
    for (std::size_t s = 0; s < steps_.size(); s++)
      if (steps_[s].run) steps_[s].run({w.values, w.arena + plan_.scratch[s]});
    for (std::size_t i = 0; i < outputs.size(); i++) {
      const std::size_t bytes = outputs_[i].bytes();
      std::memcpy(static_cast<std::uint8_t *>(outputs[i].data) + sample * bytes, w.values[static_cast<std::size_t>(output_index_[i])], bytes);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(workspace));
}

}  // namespace bitshift
