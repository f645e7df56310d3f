#include "transposed.h"

#include <algorithm>
#include <numeric>

#include "ops.h"
#include "weighted.h"

namespace bitshift {
namespace {

// More convolutions than this cost more to set up than they save.
constexpr std::size_t kMostPhases = 64;

// Along one axis: the outputs first, first + stride, ... (count of them) meet the taps tap, tap + period, ... (taps of them), and
// the last tap meets input -pad for the first output.
struct Phase {
  std::int64_t first, count, tap, taps, pad;
};

struct Axis {
  std::vector<Phase> phases;
  std::int64_t period = 1, dilation = 1;  // from tap to tap, in the kernel and in the input
  bool complete = true;                   // every output meets a tap
};

// Output p meets tap k and input q where q*stride - before + k*dilation = p.
Axis axis_of(std::int64_t stride, std::int64_t dilation, std::int64_t before, std::int64_t kernel, std::int64_t out) {
  const std::int64_t common = std::gcd(stride, dilation);
  Axis axis;
  axis.period = stride / common;
  axis.dilation = dilation / common;
  // Two taps of one period leave different remainders: more phases than taps leave outputs that meet none.
  const std::int64_t remainders = std::min(stride, out);
  if (remainders > kernel || remainders > static_cast<std::int64_t>(kMostPhases)) {
    axis.complete = false;
    return axis;
  }
  for (std::int64_t first = 0; first < remainders; first++) {
    const std::int64_t remainder = (first + before) % stride, row = (first + before) / stride;
    std::int64_t tap = 0;
    while (tap < kernel && tap * dilation % stride != remainder) tap++;
    if (tap == kernel) {
      axis.complete = false;
      return axis;
    }
    const std::int64_t taps = (kernel - 1 - tap) / axis.period + 1;
    const std::int64_t last = (tap * dilation - remainder) / stride + (taps - 1) * axis.dilation;
    axis.phases.push_back({first, (out - first + stride - 1) / stride, tap, taps, last - row});
  }
  return axis;
}

std::vector<Axis> axes_of(const Graph &graph, const Node &node) {
  const Attrs &a = node.attrs;
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < a.kernel.size(); i++)
    axes.push_back(axis_of(a.stride[i], a.dilation[i], a.padding[i].first, a.kernel[i], graph.out(node).shape[i + 1]));
  return axes;
}

bool splittable(const Graph &graph, const Node &node) {
  if (node.op != &conv_transpose_op) return false;
  std::size_t count = 1;
  for (const Axis &axis : axes_of(graph, node)) {
    if (!axis.complete) return false;
    count *= axis.phases.size();
    if (count > kMostPhases) return false;
  }
  return true;
}

// Codes of `bits` bits each as a row of the model file, appended to `out`.
void append_packed(const std::vector<std::uint8_t> &row, int bits, std::vector<std::uint8_t> &out) {
  const std::size_t begin = out.size();
  out.resize(begin + (row.size() * static_cast<std::size_t>(bits) + 7) / 8, 0);
  for (std::size_t i = 0; i < row.size(); i++)
    for (int b = 0; b < bits; b++) {
      const std::size_t at = i * static_cast<std::size_t>(bits) + static_cast<std::size_t>(b);
      out[begin + at / 8] = static_cast<std::uint8_t>(out[begin + at / 8] | ((row[i] >> b & 1) << (at % 8)));
    }
}

class Split {
 public:
  Split(const Graph &from, Graph &to) : from_(from), to_(to) {}

  void node(const Node &node) {
    const std::vector<Axis> axes = axes_of(from_, node);
    Node joined = made(interleave_op, node);
    joined.output = node.output;
    joined.attrs.stride = node.attrs.stride;
    std::vector<std::size_t> index(axes.size(), 0);
    std::size_t count = 1;
    for (const Axis &axis : axes) count *= axis.phases.size();
    for (std::size_t n = 0; n < count; n++) {
      std::vector<Phase> phase;
      for (std::size_t i = 0; i < axes.size(); i++) phase.push_back(axes[i].phases[index[i]]);
      joined.inputs.push_back(part(node, axes, phase, count == 1));
      for (const Phase &p : phase) joined.attrs.start.push_back(p.first);
      for (std::size_t i = axes.size(); i-- > 0;) {
        if (++index[i] < axes[i].phases.size()) break;
        index[i] = 0;
      }
    }
    if (count > 1) to_.nodes.push_back(std::move(joined));
  }

 private:
  // A node of its own module, without constants.
  static Node made(const OpSpec &op, const Node &node) {
    Node out;
    out.op = &op;
    out.source = node.source;
    out.consts.fill(-1);
    return out;
  }

  // The convolution of one phase; gives its output.
  int part(const Node &node, const std::vector<Axis> &axes, const std::vector<Phase> &phase, bool whole) {
    Node conv = made(conv_op, node);
    conv.inputs = {node.inputs[0]};
    conv.consts = node.consts;
    conv.attrs.format = node.attrs.format;
    conv.attrs.groups = node.attrs.groups;
    conv.attrs.lo = node.attrs.lo;
    conv.attrs.hi = node.attrs.hi;
    Shape shape = {from_.out(node).shape[0]};
    for (std::size_t i = 0; i < phase.size(); i++) {
      conv.attrs.kernel.push_back(phase[i].taps);
      conv.attrs.stride.push_back(1);
      conv.attrs.dilation.push_back(axes[i].dilation);
      conv.attrs.padding.emplace_back(phase[i].pad, 0);  // may be negative: the first outputs lie inside
      shape.push_back(phase[i].count);
    }
    const bool plain = node.constant(Role::weight) >= 0;
    conv.consts[static_cast<std::size_t>(plain ? Role::weight : Role::codes)] = weights(node, axes, phase, plain);
    if (node.inputs.size() == 2) conv.inputs.push_back(whole ? node.inputs[1] : crop(node, phase, shape));
    conv.output = whole ? node.output : value(node.output, shape);
    to_.nodes.push_back(std::move(conv));
    return to_.nodes.back().output;
  }

  // Every stride-th element of the residual from the phase's first on.
  int crop(const Node &node, const std::vector<Phase> &phase, const Shape &shape) {
    Node slice = made(slice_op, node);
    slice.inputs = {node.inputs[1]};
    slice.attrs.start = {0};
    slice.attrs.step = {1};
    for (std::size_t i = 0; i < phase.size(); i++) {
      slice.attrs.start.push_back(phase[i].first);
      slice.attrs.step.push_back(node.attrs.stride[i]);
    }
    slice.output = value(node.inputs[1], shape);
    to_.nodes.push_back(std::move(slice));
    return to_.nodes.back().output;
  }

  int value(int like, const Shape &shape) {
    Value made = from_.values[static_cast<std::size_t>(like)];
    made.name += "/" + std::to_string(to_.values.size());
    made.shape = shape;
    made.size = 1;
    for (std::int64_t n : shape) made.size *= n;
    to_.values.push_back(std::move(made));
    return static_cast<int>(to_.values.size()) - 1;
  }

  // The weights of one phase, its taps turned around.
  int weights(const Node &node, const std::vector<Axis> &axes, const std::vector<Phase> &phase, bool plain) {
    const Constant &all = weights_of(from_, node);
    std::vector<std::size_t> taps = {0};  // places in the kernel, in the order of the convolution's
    for (std::size_t i = 0; i < axes.size(); i++) {
      std::vector<std::size_t> more;
      for (std::size_t at : taps)
        for (std::int64_t j = phase[i].taps; j-- > 0;)
          more.push_back(at * static_cast<std::size_t>(all.shape[i + 2]) + static_cast<std::size_t>(phase[i].tap + j * axes[i].period));
      taps = std::move(more);
    }
    Constant made;
    made.name = all.name;
    made.role = all.role;
    made.format = all.format;
    made.shape = {all.shape[0], all.shape[1]};
    std::size_t kernel = 1;
    for (std::size_t i = 0; i < axes.size(); i++) {
      made.shape.push_back(phase[i].taps);
      kernel *= static_cast<std::size_t>(all.shape[i + 2]);
    }
    const auto rows = static_cast<std::size_t>(all.shape[0]), channels = static_cast<std::size_t>(all.shape[1]);
    if (plain) {
      for (std::size_t c = 0; c < rows * channels; c++)
        for (std::size_t tap : taps) made.reals.push_back(all.reals[c * kernel + tap]);
    } else {
      auto packed = std::make_shared<std::vector<std::uint8_t>>();
      std::vector<std::uint8_t> row(static_cast<std::size_t>(all.codes.per_row)), part(channels * taps.size());
      for (std::size_t o = 0; o < rows; o++) {
        all.codes.unpack(static_cast<std::int64_t>(o), 1, row.data());
        for (std::size_t c = 0; c < channels; c++)
          for (std::size_t t = 0; t < taps.size(); t++) part[c * taps.size() + t] = row[c * kernel + taps[t]];
        append_packed(part, all.format->bits, *packed);
      }
      made.codes = {packed->data(), all.format, all.shape[0], static_cast<std::int64_t>(part.size())};
      made.sums = check_codes(made.codes, made.name);
      made.owned = std::move(packed);
    }
    to_.constants.push_back(std::move(made));
    return static_cast<int>(to_.constants.size()) - 1;
  }

  const Graph &from_;
  Graph &to_;
};

}  // namespace

bool has_splittable(const Graph &graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const Node &node) { return splittable(graph, node); });
}

Graph split_transposed(const Graph &graph) {
  Graph out = graph;
  out.nodes.clear();
  Split split(graph, out);
  for (const Node &node : graph.nodes) {
    if (splittable(graph, node))
      split.node(node);
    else
      out.nodes.push_back(node);
  }
  return out;
}

}  // namespace bitshift
