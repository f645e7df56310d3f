// How steps are made: what the parts of make_program share (steps_*.cpp).
#ifndef BITSHIFT_SRC_BUILDER_H
#define BITSHIFT_SRC_BUILDER_H

#include "../simd/pack.h"
#include "program.h"
#include "tune.h"

namespace bitshift {

// Maps with a wider border cost more than they save.
constexpr std::int64_t kMaxBorder = 64;

class Builder {
 public:
  Builder(const Graph &graph, const std::vector<Bound> &bounds, const Settings &settings);
  Program build(const std::function<void(const Node &)> &packed);

  const Graph &graph;
  const Settings &settings;
  Tuner tuner;

  const Value &value(int index) const { return graph.values[static_cast<std::size_t>(index)]; }
  const Bound &bound(const Node &node) const { return bounds_[static_cast<std::size_t>(&node - graph.nodes.data())]; }
  // Of a value's integers.
  Range range(int index) const { return ranges_[static_cast<std::size_t>(index)]; }
  // The kernels for maps; null where only planar ones serve.
  const simd::PixelKernels *pixels() const { return settings.isa ? settings.isa->pixels : nullptr; }

  // The map that holds a value, with the border that its readers want.
  simd::Map map_of(int index) const;
  // Areas that hold a value in one form; a conversion is added where it is missing.
  int planar(int index);
  int map(int index);
  // Whether samples follow each other without a gap in the planar form of a value, so that rows of all samples are one matrix.
  bool is_dense(int index) const { return program_.areas[static_cast<std::size_t>(index)].stride == value(index).bytes(); }
  // Declares the form that a step is about to write.
  int make_planar(int index);
  int make_map(int index);

  // A step for `node`, described but for its kernel.
  Step describe(const Node &node, std::vector<int> reads, int writes) const;
  void add(Step step);
  // Adds a step that calls work on area `in` (and `residual`, if not -1) to make the map of value `made`, and fills the map's
  // border if it has one.
  void add_pixels(Step step, int in, int residual, int made, std::function<void(const simd::Task &)> work);
  void add_planar(const Node &node);

 private:
  void choose_forms();
  void add_node(const Node &node, bool on_map);
  void convert(int index, int from, int to, bool to_map);

  const std::vector<Bound> &bounds_;
  std::vector<Range> ranges_;
  std::vector<std::uint8_t> on_map_;                       // by node: whether it reads and writes maps
  std::vector<std::int64_t> border_h_, border_w_;          // by value
  std::vector<int> map_area_;                              // by value, -1 where there is none
  std::vector<std::uint8_t> has_planar_;                   // by value
  Program program_;
};

// Whether a value can be a map at all, and one of bytes.
bool fits_map(const Value &value);
bool fits_byte_map(const Value &value);
// The map of a value without a border.
simd::Map bare_map(const Value &value);

// Whether kernel layout, which pads outputs and inputs to whole blocks, keeps weights near their size in the file.
bool packs_well(const simd::Weights &weights, const PackedCodes &codes);

// The codes of a layer as pack_conv and pack_linear ask for them, from the bytes of the file.
simd::CodeRows code_rows(const PackedCodes &codes);

// What an op does on maps. `can` decides from the graph alone; `add` may still find that no kernel serves (false: nothing was
// added, the node runs planar).
struct MapOp {
  const OpSpec *op;
  bool heavy;  // worth bringing its input to a map; others follow their neighbours
  bool (*can)(const Builder &, const Node &);
  bool (*add)(Builder &, const Node &);
};
const MapOp *find_map_op(const OpSpec *op);

bool can_conv(const Builder &, const Node &);      // steps_conv.cpp
bool add_conv(Builder &, const Node &);
// How far a convolution reads beyond its input: rows, columns.
std::pair<std::int64_t, std::int64_t> conv_border(const bsk_conv &g);

bool can_max_pool(const Builder &, const Node &);  // steps_pixels.cpp
bool add_max_pool(Builder &, const Node &);
bool can_avg_pool(const Builder &, const Node &);
bool add_avg_pool(Builder &, const Node &);
bool can_sum(const Builder &, const Node &);
bool add_sum(Builder &, const Node &);
bool can_table(const Builder &, const Node &);
bool add_table(Builder &, const Node &);
bool can_concat(const Builder &, const Node &);
bool add_concat(Builder &, const Node &);
bool can_quantize(const Builder &, const Node &);
bool add_quantize(Builder &, const Node &);

bool can_slice(const Builder &, const Node &);     // steps_moves.cpp
bool add_slice(Builder &, const Node &);
bool can_spread(const Builder &, const Node &);  // upsample, interleave
bool add_spread(Builder &, const Node &);
bool can_pad(const Builder &, const Node &);
bool add_pad(Builder &, const Node &);

// Planar steps with fast kernels: linear, convolution of floats, convolution of bytes over three axes. False: nothing was added.
bool add_linear(Builder &, const Node &);          // steps_linear.cpp
bool add_float(Builder &, const Node &);
bool add_volume(Builder &, const Node &);          // steps_volume.cpp

}  // namespace bitshift
#endif
