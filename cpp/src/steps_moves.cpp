// Ops on maps that move bytes: slices of pixels, padding of channels. (Every second pixel, then more channels of zeros, is the
// shortcut of CIFAR ResNets.)
#include <algorithm>
#include <array>
#include <memory>

#include "builder.h"

namespace bitshift {
namespace {

bool bytes_to_bytes(const Builder &b, const Node &node) { return fits_byte_map(b.graph.in(node)) && fits_byte_map(b.graph.out(node)); }

}  // namespace

// All channels, and pixels from the first on.
bool can_slice(const Builder &b, const Node &node) {
  const Attrs &a = node.attrs;
  return bytes_to_bytes(b, node) && a.step[0] == 1 && b.graph.in(node).shape[0] == b.graph.out(node).shape[0] &&
         std::all_of(a.start.begin(), a.start.end(), [](std::int64_t start) { return start == 0; });
}

// The largest of one pixel is the pixel.
bool add_slice(Builder &b, const Node &node) {
  const Shape &step = node.attrs.step;
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.map(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map from = b.map_of(node.inputs[0]), to = b.map_of(node.output);
  const bsk_pool p = {from.channels, from.height, from.width, to.height, to.width, 1, 1, step.size() == 3 ? step[1] : 1, step.back(), 1, 1, 0, 0};
  Step made = b.describe(node, {in}, out);
  made.kernel = "slice";
  b.add_pixels(std::move(made), in, -1, node.output, [=](const simd::Task &task) { kernels->max_pool(p, from, to, task); });
  return true;
}

// Channels alone.
bool can_pad(const Builder &b, const Node &node) {
  const auto &padding = node.attrs.padding;
  return bytes_to_bytes(b, node) &&
         std::all_of(padding.begin() + 1, padding.end(), [](const auto &pair) { return pair.first == 0 && pair.second == 0; });
}

// First the value into all channels, by a table that knows nothing else, as many at once as the input has; then the input over it.
bool add_pad(Builder &b, const Node &node) {
  const simd::PixelKernels *kernels = b.pixels();
  const int in = b.map(node.inputs[0]), out = b.make_map(node.output);
  const simd::Map from = b.map_of(node.inputs[0]), to = b.map_of(node.output);
  const std::int64_t first = node.attrs.padding[0].first;
  const auto value = std::make_shared<std::array<std::uint8_t, 256>>();
  value->fill(static_cast<std::uint8_t>(node.attrs.value + to.zero));
  const bool border = to.border_h || to.border_w;
  Step made = b.describe(node, {in}, out);
  made.kernel = "pad";
  made.phases = 2;
  made.run = [=](const Frame &f, int phase) {
    const simd::Task task = f.task(in, -1, out);
    if (phase == 1) {
      kernels->channels(nullptr, from, first, to, task);
      return;
    }
    for (std::int64_t c = 0; c < to.channels; c += from.channels)
      kernels->channels(value->data(), from, std::min(c, to.channels - from.channels), to, task);
    if (border && f.needs_border(out)) kernels->border(to, task);
  };
  b.add(std::move(made));
  return true;
}

}  // namespace bitshift
