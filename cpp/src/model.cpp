#include "model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "error.h"
#include "modelfile.h"
#include "transposed.h"

namespace bitshift {

namespace {

// For this machine; with the portable kernels alone where a sample's maps would not fit into the memory limit, and without the parts
// of transposed convolutions where these would not.
std::unique_ptr<const Runner> make_runner(const Graph &graph, const std::vector<Bound> &bounds, Settings &settings, const ModelBytes &file,
                                          std::uint64_t memory, double operations) {
  const auto release = [&file](const Graph &g, const Node &node) {
    if (const Constant *codes = g.constant(node, Role::codes); codes && !codes->owned)
      file.release(codes->codes.data, static_cast<std::size_t>(codes->codes.bytes()));
  };
  const auto make = [&](const Graph &g, const std::vector<Bound> &b) {
    const auto packed = [&](const Node &node) { release(g, node); };
    return std::make_unique<const Runner>(make_program(g, b, settings, packed), settings, memory, operations);
  };
  const auto make_split = [&] {
    if (!has_splittable(graph)) return make(graph, bounds);
    const Graph split = split_transposed(graph);
    return make(split, check_bounds(split));
  };
  if (settings.isa) {
    try {
      return make_split();
    } catch (const UsageError &) {
      settings.isa = nullptr;
    }
  }
  try {
    return make_split();
  } catch (const UsageError &) {  // the parts of a transposed convolution need memory of their own
    return make(graph, bounds);
  }
}

// "the id 7 at sample 0, element 3": the first of `count` integers that is out of `range`.
std::string bad_id(const void *data, bsk_dtype dtype, Range range, std::size_t count, std::size_t size) {
  const std::size_t item = bsk_dtype_size(dtype);
  const auto lo = static_cast<std::int32_t>(range.lo), hi = static_cast<std::int32_t>(range.hi);
  std::size_t at = 0;
  while (at + 1 < count && bsk_in_range(static_cast<const std::uint8_t *>(data) + at * item, dtype, lo, hi, 1)) at++;
  std::int32_t id = 0;
  bsk_rescale_int(1, 0, 0, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max(),
                  static_cast<const std::uint8_t *>(data) + at * item, dtype, &id, BSK_I32, 1);
  return "the id " + std::to_string(id) + " at sample " + std::to_string(at / size) + ", element " + std::to_string(at % size);
}

bool overlap(const void *a, std::size_t a_bytes, const void *b, std::size_t b_bytes) {
  const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
  return a_bytes && b_bytes && x < y + b_bytes && y < x + a_bytes;
}

// What a graph took lies between blocks that stay, where the allocator would keep it; if it is much, the system gets it back.
// Made before the graph, so that it ends behind it.
struct Remains {
  std::size_t bytes = 0;

  ~Remains() {
#if defined(__GLIBC__)
    if (bytes >= std::size_t{1} << 18) malloc_trim(0);
#endif
  }
};

}  // namespace

Model::Model(const ModelBytes &file, const Options &options) {
  Settings settings = resolve(options);
  Remains remains;
  const Graph graph = read_model(file);
  for (const Constant &c : graph.constants) remains.bytes += c.ints.size() * sizeof c.ints[0] + c.reals.size() * sizeof c.reals[0];
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
  // The plan holds the limit; here it keeps kernels from being measured on values that no plan can hold.
  for (const Value &value : graph.values)
    if (value.bytes() > options.memory)
      throw UsageError("value " + quoted(value.name) + " needs " + std::to_string(value.bytes()) + " bytes a sample; the memory limit is " +
                       std::to_string(options.memory));
  runner_ = make_runner(graph, bounds, settings, file, options.memory - static_cast<std::uint64_t>(held.value()),
                        static_cast<double>(operations.value()));
  isa_ = settings.isa_name();
  for (const Step &step : runner_->program().steps) steps_.push_back(step);
  for (int index : graph.inputs) inputs_.push_back(graph.values[static_cast<std::size_t>(index)]);
  ranges_ = input_ranges(graph);
  for (int index : graph.outputs) outputs_.push_back(graph.values[static_cast<std::size_t>(index)]);
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
    if (value.type.real || !inputs[i].bytes) continue;
    // The bounds hold for integers in the range of the input only, which may be narrower than its storage.
    const bsk_dtype dtype = value.type.dtype();
    const int storage = static_cast<int>(bsk_dtype_size(dtype)) * 8;
    const Range range = ranges_[i];
    const bool ids = range.lo != value.type.lo() || range.hi != value.type.hi();
    if (value.type.bits == storage && !ids) continue;
    const bool aligned = reinterpret_cast<std::uintptr_t>(inputs[i].data) % bsk_dtype_size(dtype) == 0;
    std::vector<std::uint32_t> copy;
    const void *data = inputs[i].data;
    if (!aligned) {
      copy.resize(inputs[i].bytes / 4 + 1);
      std::memcpy(copy.data(), data, inputs[i].bytes);
      data = copy.data();
    }
    const std::size_t count = inputs[i].bytes / bsk_dtype_size(dtype);
    if (bsk_in_range(data, dtype, static_cast<std::int32_t>(range.lo), static_cast<std::int32_t>(range.hi), count)) continue;
    if (ids)
      throw UsageError("input " + quoted(value.name) + " holds " + bad_id(data, dtype, range, count, static_cast<std::size_t>(value.size)) +
                       "; the embedding that reads it has the rows " + std::to_string(range.lo) + " to " + std::to_string(range.hi));
    else
      throw UsageError("input " + quoted(value.name) + " holds integers outside of " + value.type.text() + ", which goes from " +
                       std::to_string(value.type.lo()) + " to " + std::to_string(value.type.hi()));
  }
  for (std::size_t i = 0; i < outputs.size(); i++) check("output", outputs_[i], outputs[i].bytes, outputs[i].data);
  check_apart(inputs, outputs);
}

void Model::check_apart(const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs) const {
  for (std::size_t i = 0; i < outputs.size(); i++) {
    const MutableBuffer &out = outputs[i];
    const auto check = [&](const char *kind, const Value &value, const void *data, std::size_t bytes) {
      if (overlap(out.data, out.bytes, data, bytes))
        throw UsageError("output " + quoted(outputs_[i].name) + " shares memory with " + kind + " " + quoted(value.name) +
                         "; an output needs memory of its own");
    };
    for (std::size_t j = 0; j < inputs.size(); j++) check("input", inputs_[j], inputs[j].data, inputs[j].bytes);
    for (std::size_t j = 0; j < i; j++) check("output", outputs_[j], outputs[j].data, outputs[j].bytes);
  }
}

void Model::run(std::size_t batch, const std::vector<Buffer> &inputs, const std::vector<MutableBuffer> &outputs,
                std::vector<Event> *events) const {
  check_buffers(batch, inputs, outputs);
  Runner::Ends ends;
  std::vector<std::vector<std::uint32_t>> aligned;  // copies of inputs that lie at odd addresses
  for (std::size_t i = 0; i < inputs.size(); i++) {
    const auto *at = static_cast<const std::uint8_t *>(inputs[i].data);
    if (reinterpret_cast<std::uintptr_t>(at) % bsk_dtype_size(inputs_[i].type.dtype())) {
      aligned.emplace_back(inputs[i].bytes / 4 + 1);
      std::memcpy(aligned.back().data(), at, inputs[i].bytes);
      at = reinterpret_cast<const std::uint8_t *>(aligned.back().data());
    }
    ends.inputs.push_back(at);
  }
  for (std::size_t i = 0; i < outputs.size(); i++) {
    ends.outputs.push_back(static_cast<std::uint8_t *>(outputs[i].data));
    ends.output_bytes.push_back(outputs_[i].bytes());
  }
  runner_->run(batch, ends, events);
}

}  // namespace bitshift
