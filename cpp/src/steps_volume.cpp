// Convolutions of bytes over three axes, on the kernels for maps: each depth of the output is a 2-d convolution over the depths of
// its window as channels, and the depths of all samples are the samples of one call.
#include <cstring>
#include <memory>

#include "builder.h"
#include "requant.h"

namespace bitshift {
namespace {

struct VolumeConv {
  simd::ConvLayer layer;
  simd::PackedWeights packed;
  FoldedRequant requant;
  std::int64_t channels = 0, depth = 0, out_depth = 0, kernel = 0, stride = 0, dilation = 0, pad = 0;
};

std::size_t whole(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// The map of one depth of a value (channels, depth, height, width) with `channels` planes.
simd::Map depth_map(const Value &value, std::int64_t channels) {
  simd::Map map;
  map.channels = channels;
  map.height = value.shape[2];
  map.width = value.shape[3];
  map.item = static_cast<int>(bsk_dtype_size(value.type.dtype()));
  map.zero = map.item == 1 && value.type.is_signed ? 128 : 0;
  return map;
}

// What lies in the scratch memory of a call: maps of `count` depths, a buffer of planes a thread, and the kernel's own.
struct Layout {
  std::size_t in, res, out, buffer, in_at = 0, res_at, out_at, buffers_at, kernel_at;

  Layout(const VolumeConv &v, bool residual, std::int64_t count, int threads) {
    const auto n = static_cast<std::size_t>(count);
    in = whole(static_cast<std::size_t>(v.layer.in.bytes()));
    out = whole(static_cast<std::size_t>(v.layer.out.bytes()));
    res = residual ? whole(static_cast<std::size_t>(v.layer.res.bytes())) : 0;
    const auto planes = [](const simd::Map &map) { return static_cast<std::size_t>(map.height * map.width * map.channels * map.item); };
    buffer = whole(std::max({planes(v.layer.in), planes(v.layer.out), residual ? planes(v.layer.res) : 0}));
    res_at = n * in;
    out_at = res_at + n * res;
    buffers_at = out_at + n * out;
    kernel_at = buffers_at + static_cast<std::size_t>(threads) * buffer;
  }
};

// One map from planes that lie one behind the other, or back, by this thread alone.
simd::Task single(const std::uint8_t *in, std::uint8_t *out) {
  simd::Task task;
  task.in = in;
  task.out = out;
  return task;
}

}  // namespace

bool add_volume(Builder &b, const Node &node) {
  const Graph &graph = b.graph;
  const Value &x = graph.in(node), &y = graph.out(node);
  if (!b.pixels() || x.type.real || x.type.bits > 8) return false;
  const auto conv = std::make_shared<VolumeConv>();
  VolumeConv &v = *conv;
  v.channels = x.shape[0];
  v.depth = x.shape[1];
  v.out_depth = y.shape[1];
  v.kernel = node.attrs.kernel[0];
  v.stride = node.attrs.stride[0];
  v.dilation = node.attrs.dilation[0];
  v.pad = node.attrs.padding[0].first;
  simd::ConvLayer &layer = v.layer;
  layer.g = conv_geometry(graph, node);
  layer.g.in_c *= v.kernel;
  const auto [border_h, border_w] = conv_border(layer.g);
  if (border_h > kMaxBorder || border_w > kMaxBorder) return false;
  layer.in = depth_map(x, layer.g.in_c);
  layer.in.border_h = border_h;
  layer.in.border_w = border_w;
  layer.out = depth_map(y, y.shape[0]);
  layer.q.out_item = layer.out.item;
  const bool residual = node.inputs.size() == 2;
  if (residual) layer.res = depth_map(graph.in(node, 1), y.shape[0]);
  const Range range = b.range(node.inputs[0]);
  layer.in_lo = static_cast<std::int32_t>(std::min<std::int64_t>(range.lo, 0));
  layer.in_hi = static_cast<std::int32_t>(std::max<std::int64_t>(range.hi, 0));
  layer.acc_bound = static_cast<std::int64_t>(b.bound(node).acc.value());
  const PackedCodes &codes = graph.constant(node, Role::codes)->codes;
  const bitshift_format &format = *node.attrs.format;
  layer.w = simd::conv_weights(layer.g, format, b.settings.isa->limit);
  if (!layer.w.planes || !packs_well(layer.w, codes)) return false;
  v.packed = simd::pack_conv(layer.g, format, b.settings.isa->limit, code_rows(codes));
  v.requant = fold_requant(graph, node, b.bound(node), v.packed.level_sums, layer.in.zero, layer.res.zero, layer.out.zero);
  layer.w = v.packed.w;
  layer.q = v.requant.view;
  layer.wino1_max = v.packed.wino1_max;
  layer.wino2_max = v.packed.wino2_max;
  if (!v.packed.tap_sums.empty()) layer.tap_sums = v.packed.tap_sums.data();
  const simd::ConvKernel *kernel = b.tuner.choose(layer);
  if (!kernel) return false;

  const int in = b.planar(node.inputs[0]), res = residual ? b.planar(node.inputs[1]) : -1, out = b.make_planar(node.output);
  Step step = b.describe(node, residual ? std::vector<int>{in, res} : std::vector<int>{in}, out);
  step.kernel = std::string(kernel->name) + " by depth";
  step.phases = kernel->phases + 2;
  step.weight_bytes = layer.w.bytes();
  const simd::PixelKernels *pixels = b.pixels();
  const bsk_dtype in_type = x.type.dtype(), out_type = y.type.dtype(), res_type = residual ? graph.in(node, 1).type.dtype() : BSK_U8;
  step.run = [=](const Frame &f, int phase) {
    const VolumeConv &c = *conv;
    const std::int64_t count = f.samples * c.out_depth;
    const Layout at(c, residual, count, f.threads);
    std::uint8_t *const buffer = f.scratch + at.buffers_at + static_cast<std::size_t>(f.thread) * at.buffer;
    simd::Task task = f.task(in, res, out);
    std::int64_t begin, end;
    task.share(count, begin, end);
    if (phase == 0) {
      const auto plane = static_cast<std::size_t>(c.layer.in.height * c.layer.in.width);
      const auto res_plane = static_cast<std::size_t>(c.layer.res.height * c.layer.res.width * c.layer.res.item);
      for (std::int64_t i = begin; i < end; i++) {
        const std::int64_t sample = i / c.out_depth, d = i % c.out_depth;
        const std::uint8_t *from = task.in + sample * task.in_stride;
        std::uint8_t *to = buffer;
        for (std::int64_t ch = 0; ch < c.channels; ch++)
          for (std::int64_t k = 0; k < c.kernel; k++, to += plane) {
            const std::int64_t z = d * c.stride - c.pad + k * c.dilation;
            if (z < 0 || z >= c.depth)
              std::memset(to, 0, plane);
            else
              std::memcpy(to, from + static_cast<std::size_t>(ch * c.depth + z) * plane, plane);
          }
        const simd::Task one = single(buffer, f.scratch + at.in_at + static_cast<std::size_t>(i) * at.in);
        pixels->from_planar(in_type, c.layer.in, one);
        if (c.layer.in.border_h || c.layer.in.border_w) pixels->border(c.layer.in, one);
        if (!residual) continue;
        const std::uint8_t *other = task.residual + sample * task.res_stride;
        for (std::int64_t ch = 0; ch < c.layer.res.channels; ch++)
          std::memcpy(buffer + static_cast<std::size_t>(ch) * res_plane, other + static_cast<std::size_t>(ch * c.out_depth + d) * res_plane, res_plane);
        pixels->from_planar(res_type, c.layer.res, single(buffer, f.scratch + at.res_at + static_cast<std::size_t>(i) * at.res));
      }
    } else if (phase <= kernel->phases) {
      task.in = f.scratch + at.in_at;
      task.residual = residual ? f.scratch + at.res_at : nullptr;
      task.out = f.scratch + at.out_at;
      task.in_stride = static_cast<std::int64_t>(at.in);
      task.res_stride = static_cast<std::int64_t>(at.res);
      task.out_stride = static_cast<std::int64_t>(at.out);
      task.samples = count;
      task.scratch = f.scratch + at.kernel_at;
      kernel->run(c.layer, task, phase - 1);
    } else {
      const auto plane = static_cast<std::size_t>(c.layer.out.height * c.layer.out.width * c.layer.out.item);
      for (std::int64_t i = begin; i < end; i++) {
        const std::int64_t sample = i / c.out_depth, d = i % c.out_depth;
        pixels->to_planar(out_type, c.layer.out, single(f.scratch + at.out_at + static_cast<std::size_t>(i) * at.out, buffer));
        std::uint8_t *const to = task.out + sample * task.out_stride;
        for (std::int64_t ch = 0; ch < c.layer.out.channels; ch++)
          std::memcpy(to + static_cast<std::size_t>(ch * c.out_depth + d) * plane, buffer + static_cast<std::size_t>(ch) * plane, plane);
      }
    }
  };
  step.scratch = [=](std::int64_t samples, int threads) {
    const std::int64_t count = samples * conv->out_depth;
    return Layout(*conv, residual, count, threads).kernel_at + kernel->scratch(conv->layer, count, threads);
  };
  b.add(std::move(step));
  return true;
}

}  // namespace bitshift
