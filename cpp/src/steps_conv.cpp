// Convolutions on maps.
#include <algorithm>
#include <memory>

#include "builder.h"
#include "requant.h"

namespace bitshift {
namespace {

// What a step's kernel reads; alive as long as the step.
struct MapConv {
  simd::ConvLayer layer;
  simd::PackedWeights packed;
  FoldedRequant requant;
};

std::int64_t beyond(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride, std::int64_t dilation, std::int64_t before) {
  return std::max({std::int64_t{0}, before, (out - 1) * stride + (kernel - 1) * dilation - before - (in - 1)});
}

// All of a layer but its weights and rule 4; `in` is the map it reads.
simd::ConvLayer layer_of(const Builder &b, const Node &node, const simd::Map &in) {
  simd::ConvLayer layer;
  layer.g = conv_geometry(b.graph, node);
  layer.in = in;
  layer.out = b.map_of(node.output);
  layer.q.out_item = layer.out.item;  // what kernels ask before rule 4 is folded
  if (node.inputs.size() == 2) layer.res = b.map_of(node.inputs[1]);
  const Range range = b.range(node.inputs[0]);
  layer.in_lo = static_cast<std::int32_t>(std::min<std::int64_t>(range.lo, 0));
  layer.in_hi = static_cast<std::int32_t>(std::max<std::int64_t>(range.hi, 0));
  layer.acc_bound = static_cast<std::int64_t>(b.bound(node).acc.value());
  return layer;
}

}  // namespace

std::pair<std::int64_t, std::int64_t> conv_border(const bsk_conv &g) {
  return {beyond(g.in_h, g.out_h, g.kernel_h, g.stride_h, g.dilation_h, g.pad_top),
          beyond(g.in_w, g.out_w, g.kernel_w, g.stride_w, g.dilation_w, g.pad_left)};
}

bool can_conv(const Builder &b, const Node &node) {
  const Value &x = b.graph.in(node), &y = b.graph.out(node);
  if (!fits_byte_map(x) || !fits_map(y)) return false;
  const bsk_conv g = conv_geometry(b.graph, node);
  const auto [h, w] = conv_border(g);
  if (h > kMaxBorder || w > kMaxBorder) return false;
  simd::Map in = bare_map(x);
  in.border_h = h;
  in.border_w = w;
  simd::ConvLayer layer = layer_of(b, node, in);
  layer.w = simd::conv_weights(g, *node.attrs.format, b.settings.isa->limit);
  const auto &kernels = b.settings.isa->conv;
  return layer.w.planes > 0 && packs_well(layer.w, b.graph.constant(node, Role::codes)->codes) && std::any_of(kernels.begin(), kernels.end(), [&](const simd::ConvKernel *k) { return k->can(layer); });
}

bool add_conv(Builder &b, const Node &node) {
  const auto conv = std::make_shared<MapConv>();
  simd::ConvLayer &layer = conv->layer;
  layer = layer_of(b, node, b.map_of(node.inputs[0]));
  conv->packed = simd::pack_conv(layer.g, *node.attrs.format, b.settings.isa->limit, code_rows(b.graph.constant(node, Role::codes)->codes));
  conv->requant = fold_requant(b.graph, node, b.bound(node), conv->packed.level_sums, layer.in.zero, layer.res.zero, layer.out.zero);
  layer.w = conv->packed.w;
  layer.q = conv->requant.view;
  layer.wino1_max = conv->packed.wino1_max;
  layer.wino2_max = conv->packed.wino2_max;
  if (!conv->packed.tap_sums.empty()) layer.tap_sums = conv->packed.tap_sums.data();
  const simd::ConvKernel *kernel = b.tuner.choose(layer);
  if (!kernel) return false;

  const int in = b.map(node.inputs[0]), res = node.inputs.size() == 2 ? b.map(node.inputs[1]) : -1, out = b.make_map(node.output);
  Step step = b.describe(node, res < 0 ? std::vector<int>{in} : std::vector<int>{in, res}, out);
  step.kernel = kernel->name;
  step.phases = kernel->phases;
  step.weight_bytes = layer.w.bytes();
  const simd::PixelKernels *pixels = b.pixels();
  const bool border = layer.out.border_h || layer.out.border_w;
  step.run = [=](const Frame &f, int phase) {
    const simd::Task task = f.task(in, res, out);
    kernel->run(conv->layer, task, phase);
    if (phase == 0 && border && f.needs_border(out)) pixels->border(conv->layer.out, task);
  };
  step.scratch = [=](std::int64_t samples, int threads) { return kernel->scratch(conv->layer, samples, threads); };
  b.add(std::move(step));
  return true;
}

}  // namespace bitshift
