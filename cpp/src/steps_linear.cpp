// Matrix products of bytes, and of floats with packed weights; convolutions of floats.
#include <algorithm>
#include <array>
#include <iterator>
#include <memory>

#include "builder.h"
#include "requant.h"
#include "rules.h"

namespace bitshift {
namespace {

// What is best depends on how often a decoded weight is used.
constexpr RowRange kRowRanges[] = {{1, 1, 1}, {2, 3, 2}, {4, 7, 5}, {8, 15, 10}, {16, std::int64_t{1} << 31, 24}};
constexpr std::size_t kRanges = std::size(kRowRanges);

template <class Kernel>
struct ByRows {
  std::array<const Kernel *, kRanges> kernels{};

  const Kernel &of(std::int64_t rows) const {
    std::size_t i = 0;
    while (i + 1 < kRanges && rows > kRowRanges[i].most) i++;
    return *kernels[i];
  }
  int phases() const {
    int most = 0;
    for (const Kernel *kernel : kernels) most = std::max(most, kernel->phases);
    return most;
  }
  // False where a number of rows has no kernel. matters: else one kernel serves all numbers.
  template <class Layer>
  bool choose(Tuner &tuner, const Layer &layer, bool matters = true) {
    if (!matters) kernels.fill(tuner.choose(layer, {1, kRowRanges[kRanges - 1].most, 1}));
    for (std::size_t i = 0; matters && i < kRanges; i++) kernels[i] = tuner.choose(layer, kRowRanges[i]);
    return std::all_of(kernels.begin(), kernels.end(), [](const Kernel *kernel) { return kernel; });
  }
  // The kernels from few rows to many.
  std::string name() const {
    std::string text = kernels[0]->name;
    for (std::size_t i = 1; i < kRanges; i++)
      if (kernels[i] != kernels[i - 1]) text += std::string("|") + kernels[i]->name;
    return text;
  }
};

// The rows of a task whose values are planar: `rows` of each sample, one behind the other.
simd::Task by_rows(simd::Task task, std::int64_t rows, std::int64_t in_bytes, std::int64_t res_bytes, std::int64_t out_bytes) {
  if (rows == 1) return task;
  task.samples *= rows;
  task.in_stride = in_bytes;
  task.res_stride = res_bytes;
  task.out_stride = out_bytes;
  return task;
}

struct Linear {
  simd::LinearLayer layer;
  simd::PackedWeights packed;
  FoldedRequant requant;
  ByRows<simd::LinearKernel> kernels;
};

bool add_integer_linear(Builder &b, const Node &node) {
  const Value &x = b.graph.in(node), &y = b.graph.out(node);
  const std::int64_t in = x.shape.back(), out = y.shape.back(), rows = y.size / out;
  if (x.type.bits > 8 || b.settings.isa->linear.empty()) return false;
  const PackedCodes &codes = b.graph.constant(node, Role::codes)->codes;
  const simd::Weights layout = simd::linear_weights(in, out, *node.attrs.format, b.settings.isa->limit);
  if (!layout.planes || !packs_well(layout, codes)) return false;
  const auto linear = std::make_shared<Linear>();
  simd::LinearLayer &layer = linear->layer;
  linear->packed = simd::pack_linear(in, out, *node.attrs.format, b.settings.isa->limit, code_rows(codes));
  layer.in = in;
  layer.out = out;
  layer.w = linear->packed.w;
  layer.signed_in = x.type.is_signed;
  linear->requant = fold_requant(b.graph, node, b.bound(node), linear->packed.level_sums, layer.signed_in ? 128 : 0, 0, 0);
  layer.q = linear->requant.view;
  if (!linear->kernels.choose(b.tuner, layer)) return false;

  const bool residual = node.inputs.size() == 2;
  const int from = b.planar(node.inputs[0]), res = residual ? b.planar(node.inputs[1]) : -1;
  if (rows > 1 && !(b.is_dense(from) && (res < 0 || b.is_dense(res)))) return false;
  const auto row_bytes = [rows](const Value &value) { return static_cast<std::int64_t>(value.bytes()) / rows; };
  const std::int64_t in_bytes = row_bytes(x), res_bytes = residual ? row_bytes(b.graph.in(node, 1)) : 0, out_bytes = row_bytes(y);
  const int to = b.make_planar(node.output);
  Step step = b.describe(node, residual ? std::vector<int>{from, res} : std::vector<int>{from}, to);
  step.kernel = linear->kernels.name();
  step.phases = linear->kernels.phases();
  step.weight_bytes = layer.w.bytes();
  step.run = [=](const Frame &f, int phase) {
    const simd::Task task = by_rows(f.task(from, res, to), rows, in_bytes, res_bytes, out_bytes);
    const simd::LinearKernel &kernel = linear->kernels.of(task.samples);
    if (phase < kernel.phases) kernel.run(linear->layer, task, phase);
  };
  step.scratch = [=](std::int64_t samples, int threads) {
    return linear->kernels.of(samples * rows).scratch(linear->layer, samples * rows, threads);
  };
  b.add(std::move(step));
  return true;
}

struct Float {
  simd::FloatLayer layer;
  simd::PackedWeights packed;
  std::vector<float> scale, bias;
  ByRows<simd::FloatKernel> kernels;
};

// One entry an output channel, zeros behind up to whole vectors.
std::vector<float> padded(std::vector<float> values) {
  values.resize((values.size() + 63) / 64 * 64, 0.0f);
  return values;
}

}  // namespace

bool add_float(Builder &b, const Node &node) {
  const Value &x = b.graph.in(node), &y = b.graph.out(node);
  if (!x.type.real || !node.attrs.format || (node.op == &conv_op && is_volume(b.graph, node)) || !b.settings.isa || b.settings.isa->floats.empty()) return false;
  const bool linear = node.op == &linear_op;
  const std::int64_t channels = linear ? y.shape.back() : y.shape[0];
  const auto state = std::make_shared<Float>();
  simd::FloatLayer &layer = state->layer;
  layer.linear = linear;
  const bitshift_format &format = *node.attrs.format;
  const int limit = b.settings.isa->limit;
  const PackedCodes &codes = b.graph.constant(node, Role::codes)->codes;
  if (linear) {
    layer.g.in_c = x.shape.back();
    layer.g.out_c = channels;
    if (!packs_well(simd::linear_weights(layer.g.in_c, channels, format, limit), codes)) return false;
    state->packed = simd::pack_linear(layer.g.in_c, channels, format, limit, code_rows(codes));
  } else {
    layer.g = conv_geometry(b.graph, node);
    if (!packs_well(simd::conv_weights(layer.g, format, limit), codes)) return false;
    state->packed = simd::pack_conv(layer.g, format, limit, code_rows(codes));
  }
  state->scale = padded(float_vector(b.graph, node, Role::scale, channels));
  state->bias = padded(float_vector(b.graph, node, Role::bias, channels));
  layer.w = state->packed.w;
  layer.levels = node.attrs.format->levels_f32;
  layer.scale = state->scale.data();
  layer.bias = state->bias.data();
  if (!state->kernels.choose(b.tuner, layer, linear)) return false;

  const std::int64_t rows = linear ? y.size / channels : 1;
  const auto in_bytes = static_cast<std::int64_t>(x.bytes()) / rows, out_bytes = static_cast<std::int64_t>(y.bytes()) / rows;
  const int from = b.planar(node.inputs[0]);
  if (rows > 1 && !b.is_dense(from)) return false;
  const int to = b.make_planar(node.output);
  Step step = b.describe(node, {from}, to);
  step.kernel = state->kernels.name();
  step.phases = state->kernels.phases();
  step.weight_bytes = layer.w.bytes();
  step.run = [=](const Frame &f, int phase) {
    const simd::Task task = by_rows(f.task(from, -1, to), rows, in_bytes, 0, out_bytes);
    const simd::FloatKernel &kernel = state->kernels.of(task.samples);
    if (phase < kernel.phases) kernel.run(state->layer, task, phase);
  };
  step.scratch = [=](std::int64_t samples, int threads) {
    return state->kernels.of(samples * rows).scratch(state->layer, samples * rows, threads);
  };
  b.add(std::move(step));
  return true;
}

bool add_linear(Builder &b, const Node &node) {
  if (!b.settings.isa) return false;
  return is_float(b.graph, node) ? add_float(b, node) : add_integer_linear(b, node);
}

}  // namespace bitshift
