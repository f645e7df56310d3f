// Ops on maps that move bytes: slices of pixels, padding of channels. (Every second pixel, then more channels of zeros, is the
// shortcut of CIFAR ResNets.)
#include <algorithm>
#include <array>
#include <cstring>
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

// Whole pixels go to every `step`-th place of the output from a first one on: upsample writes its input to each first place,
// interleave an input of its own. attrs.start has the first places, a pair (or one) a source.
namespace {

struct Spread {
  int from;  // area
  simd::Map map;
  std::int64_t y, x;  // first place
};

}  // namespace

bool can_spread(const Builder &b, const Node &node) {
  return fits_map(b.graph.out(node)) && std::all_of(node.inputs.begin(), node.inputs.end(), [&](int input) { return fits_map(b.value(input)); });
}

bool add_spread(Builder &b, const Node &node) {
  const bool flat = b.graph.out(node).shape.size() == 2, up = node.op == &upsample_op;
  const Shape &step = up ? node.attrs.factor : node.attrs.stride;
  const std::int64_t step_y = flat ? 1 : step[0], step_x = step.back();
  std::vector<Spread> sources;
  std::vector<int> reads;
  for (std::size_t i = 0; i < node.inputs.size(); i++) {
    const int from = b.map(node.inputs[i]);
    reads.push_back(from);
    const Shape &start = node.attrs.start;
    if (up)
      sources.push_back({from, b.map_of(node.inputs[0]), 0, 0});
    else
      sources.push_back({from, b.map_of(node.inputs[i]), flat ? 0 : start[2 * i], start[flat ? i : 2 * i + 1]});
  }
  const int out = b.make_map(node.output);
  const simd::Map to = b.map_of(node.output);
  const simd::PixelKernels *kernels = b.pixels();
  const bool border = to.border_h || to.border_w;
  Step made = b.describe(node, reads, out);
  made.kernel = "spread";
  made.run = [=](const Frame &f, int) {
    const simd::Task task = f.task(sources[0].from, -1, out);
    const auto pixel = static_cast<std::size_t>(to.channels * to.item), gap = static_cast<std::size_t>(step_x) * pixel;
    for (const Spread &source : sources) {
      const simd::Task part = f.task(source.from, -1, out);
      const std::int64_t rows = source.map.height * (up ? step_y : 1);
      std::int64_t begin, end;
      part.share(f.samples * rows, begin, end);
      for (std::int64_t i = begin; i < end; i++) {
        const std::int64_t sample = i / rows, row = i % rows;
        const std::int64_t y = up ? row / step_y : row, at = up ? row : source.y + row * step_y;
        const std::uint8_t *src = part.in + sample * part.in_stride + source.map.origin() + y * source.map.row();
        std::uint8_t *dst = part.out + sample * part.out_stride + to.origin() + at * to.row() + static_cast<std::size_t>(source.x) * pixel;
        for (std::int64_t x = 0; x < source.map.width; x++, src += pixel, dst += gap)
          for (std::int64_t again = 0; again < (up ? step_x : 1); again++) std::memcpy(dst + static_cast<std::size_t>(again) * pixel, src, pixel);
      }
    }
    if (border && f.needs_border(out)) kernels->border(to, task);
  };
  b.add(std::move(made));
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
