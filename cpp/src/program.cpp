#include "program.h"

#include <algorithm>

#include "builder.h"

namespace bitshift {

simd::Task Frame::task(int in, int residual, int out) const {
  auto at = [this](int area) { return base[static_cast<std::size_t>(area)]; };
  auto step = [this](int area) { return static_cast<std::int64_t>(stride[static_cast<std::size_t>(area)]); };
  simd::Task t;
  t.in = at(in);
  t.in_stride = step(in);
  if (residual >= 0) {
    t.residual = at(residual);
    t.res_stride = step(residual);
  }
  t.out = at(out);
  t.out_stride = step(out);
  t.samples = samples;
  t.scratch = scratch;
  t.thread = thread;
  t.threads = threads;
  return t;
}

bool fits_map(const Value &value) { return !value.type.real && (value.shape.size() == 2 || value.shape.size() == 3); }

bool fits_byte_map(const Value &value) { return fits_map(value) && value.type.bits <= 8; }

simd::Map bare_map(const Value &value) {
  simd::Map map;
  map.channels = value.shape[0];
  map.height = value.shape.size() == 3 ? value.shape[1] : 1;
  map.width = value.shape.back();
  map.item = static_cast<int>(bsk_dtype_size(value.type.dtype()));
  map.zero = map.item == 1 && value.type.is_signed ? 128 : 0;
  return map;
}

// A group of few outputs or few inputs can take hundreds of times its size; no network of use does.
bool packs_well(const simd::Weights &weights, const PackedCodes &codes) {
  return weights.bytes() <= 32 * static_cast<std::size_t>(codes.bytes()) + 65536;
}

simd::CodeRows code_rows(const PackedCodes &codes) {
  return [&codes, row = std::vector<std::uint8_t>(static_cast<std::size_t>(codes.per_row))](std::int64_t output) mutable {
    codes.unpack(output, 1, row.data());
    return row.data();
  };
}

const MapOp *find_map_op(const OpSpec *op) {
  static const MapOp all[] = {
      {&conv_op, true, can_conv, add_conv},         {&max_pool_op, false, can_max_pool, add_max_pool},
      {&avg_pool_op, false, can_avg_pool, add_avg_pool}, {&add_op, false, can_sum, add_sum},
      {&requantize_op, false, can_sum, add_sum},    {&rescale_op, false, can_table, add_table},
      {&clamp_op, false, can_table, add_table},     {&table_op, false, can_table, add_table},
      {&concat_op, false, can_concat, add_concat},  {&quantize_op, false, can_quantize, add_quantize},
      {&slice_op, false, can_slice, add_slice},     {&pad_op, false, can_pad, add_pad},
      {&upsample_op, false, can_spread, add_spread}, {&interleave_op, false, can_spread, add_spread}};
  for (const MapOp &entry : all)
    if (entry.op == op) return &entry;
  return nullptr;
}

Builder::Builder(const Graph &g, const std::vector<Bound> &bounds, const Settings &s) : graph(g), settings(s), tuner(s), bounds_(bounds) {
  const std::size_t values = graph.values.size();
  ranges_.resize(values);
  border_h_.assign(values, 0);
  border_w_.assign(values, 0);
  map_area_.assign(values, -1);
  has_planar_.assign(values, 0);
  on_map_.assign(graph.nodes.size(), 0);
  program_.areas.resize(values);
  for (std::size_t i = 0; i < values; i++) {
    program_.areas[i].root = static_cast<int>(i);
    program_.areas[i].stride = graph.values[i].bytes();
  }
  const std::vector<Range> given = input_ranges(graph);
  for (std::size_t i = 0; i < graph.inputs.size(); i++) {
    const auto v = static_cast<std::size_t>(graph.inputs[i]);
    program_.areas[v].input = static_cast<int>(i);
    has_planar_[v] = 1;
    ranges_[v] = given[i];
  }
  for (const Node &node : graph.nodes) ranges_[static_cast<std::size_t>(node.output)] = bound(node).range;
}

// Convolutions want maps. Cheaper ops take what they find: they run on maps where an input is one, or where what they make
// reaches a convolution.
void Builder::choose_forms() {
  if (!pixels()) return;
  const std::size_t count = graph.nodes.size();
  std::vector<std::uint8_t> can(count, 0), wanted(graph.values.size(), 0), made(graph.values.size(), 0);
  auto mark = [](std::vector<std::uint8_t> &set, int value) -> std::uint8_t & { return set[static_cast<std::size_t>(value)]; };
  for (std::size_t i = count; i-- > 0;) {
    const Node &node = graph.nodes[i];
    const MapOp *op = find_map_op(node.op);
    can[i] = op && op->can(*this, node);
    if (!can[i] || !(op->heavy || mark(wanted, node.output))) continue;
    for (int input : node.inputs) mark(wanted, input) = 1;
  }
  for (std::size_t i = 0; i < count; i++) {
    const Node &node = graph.nodes[i];
    if (!can[i]) continue;
    const bool near = std::any_of(node.inputs.begin(), node.inputs.end(), [&](int input) { return mark(made, input) != 0; });
    on_map_[i] = mark(made, node.output) = near || find_map_op(node.op)->heavy || mark(wanted, node.output);
    if (!on_map_[i] || node.op != &conv_op) continue;
    const auto [h, w] = conv_border(conv_geometry(graph, node));
    const auto x = static_cast<std::size_t>(node.inputs[0]);
    border_h_[x] = std::max(border_h_[x], h);
    border_w_[x] = std::max(border_w_[x], w);
  }
}

simd::Map Builder::map_of(int index) const {
  simd::Map map = bare_map(value(index));
  if (map.item == 1) {
    map.border_h = border_h_[static_cast<std::size_t>(index)];
    map.border_w = border_w_[static_cast<std::size_t>(index)];
  }
  return map;
}

int Builder::make_planar(int index) {
  has_planar_[static_cast<std::size_t>(index)] = 1;
  return index;
}

int Builder::make_map(int index) {
  const simd::Map map = map_of(index);
  Area area;
  area.root = static_cast<int>(program_.areas.size());
  area.stride = (static_cast<std::size_t>(map.bytes()) + 63) / 64 * 64;
  area.border = map.border_h || map.border_w;
  program_.areas.push_back(area);
  return map_area_[static_cast<std::size_t>(index)] = area.root;
}

void Builder::convert(int index, int from, int to, bool to_map) {
  const bsk_dtype type = value(index).type.dtype();
  const simd::Map map = map_of(index);
  const simd::PixelKernels *kernels = pixels();
  Step step;
  step.name = value(index).name;
  step.op = "convert";
  step.kernel = to_map ? "to-map" : "to-planar";
  step.isa = settings.isa->name;
  step.reads = {from};
  step.writes = to;
  step.in_bytes = step.out_bytes = value(index).bytes();
  if (!to_map) {
    step.run = [=](const Frame &f, int) { kernels->to_planar(type, map, f.task(from, -1, to)); };
    add(std::move(step));
    return;
  }
  add_pixels(std::move(step), from, -1, index, [=](const simd::Task &task) { kernels->from_planar(type, map, task); });
}

int Builder::planar(int index) {
  const auto v = static_cast<std::size_t>(index);
  if (has_planar_[v]) return index;
  const simd::Map map = map_of(index);
  const int from = map_area_[v], to = make_planar(index);
  // One unbiased pixel without a border is the same bytes in both forms.
  if (map.height == 1 && map.width == 1 && !map.zero && !map.border_h && !map.border_w) {
    program_.areas[v].root = from;
    program_.areas[v].stride = program_.areas[static_cast<std::size_t>(from)].stride;
  } else {
    convert(index, from, to, false);
  }
  return to;
}

int Builder::map(int index) {
  if (const int found = map_area_[static_cast<std::size_t>(index)]; found >= 0) return found;
  const int to = make_map(index);
  convert(index, index, to, true);
  return to;
}

Step Builder::describe(const Node &node, std::vector<int> reads, int writes) const {
  Step step;
  step.name = graph.out(node).name;
  step.op = node.op->name;
  step.source = node.source;
  step.isa = settings.isa_name();
  step.operations = static_cast<double>(node.op->operations(graph, node).value());
  for (int input : node.inputs) step.in_bytes += value(input).bytes();
  step.out_bytes = graph.out(node).bytes();
  step.reads = std::move(reads);
  step.writes = writes;
  return step;
}

void Builder::add(Step step) { program_.steps.push_back(std::move(step)); }

void Builder::add_pixels(Step step, int in, int residual, int made, std::function<void(const simd::Task &)> work) {
  const int out = step.writes;
  const simd::PixelKernels *kernels = pixels();
  const simd::Map map = map_of(made);
  const bool border = program_.areas[static_cast<std::size_t>(out)].border;
  step.run = [=](const Frame &f, int) {
    const simd::Task task = f.task(in, residual, out);
    work(task);
    if (border && f.needs_border(out)) kernels->border(map, task);
  };
  add(std::move(step));
}

// The portable kernels take a sample at a time: threads share samples.
void Builder::add_planar(const Node &node) {
  const PlanarStep planar_step = node.op->compile(graph, node, bound(node));
  std::vector<int> reads;
  for (int input : node.inputs) reads.push_back(planar(input));
  const int out = make_planar(node.output);
  if (!planar_step.run) {
    const Area &from = program_.areas[static_cast<std::size_t>(reads[0])];
    Area &area = program_.areas[static_cast<std::size_t>(out)];
    area.root = from.root;
    area.stride = from.stride;
    return;
  }
  Step step = describe(node, std::move(reads), out);
  step.kernel = step.isa = "portable";
  const std::size_t each = (planar_step.scratch + 63) / 64 * 64;
  step.run = [run = planar_step.run, each](const Frame &f, int) {
    for (std::int64_t i = f.thread; i < f.samples; i += f.threads)
      run({f.base, f.stride, static_cast<std::size_t>(i), f.scratch + static_cast<std::size_t>(f.thread) * each});
  };
  if (each)
    step.scratch = [each](std::int64_t samples, int threads) { return each * static_cast<std::size_t>(std::min<std::int64_t>(samples, threads)); };
  add(std::move(step));
}

void Builder::add_node(const Node &node, bool on_map) {
  if (on_map && find_map_op(node.op)->add(*this, node)) return;
  if (node.op == &linear_op && add_linear(*this, node)) return;
  if (node.op == &conv_op && add_float(*this, node)) return;
  if (node.op == &conv_op && is_volume(graph, node) && add_volume(*this, node)) return;
  add_planar(node);
}

Program Builder::build(const std::function<void(const Node &)> &packed) {
  choose_forms();
  for (std::size_t i = 0; i < graph.nodes.size(); i++) {
    add_node(graph.nodes[i], on_map_[i] != 0);
    packed(graph.nodes[i]);
  }
  for (int output : graph.outputs) program_.outputs.push_back(planar(output));
  return std::move(program_);
}

Program make_program(const Graph &graph, const std::vector<Bound> &bounds, const Settings &settings,
                     const std::function<void(const Node &)> &packed) {
  return Builder(graph, bounds, settings).build(packed);
}

}  // namespace bitshift
