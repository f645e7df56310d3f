// What an op is to the engine: a check, a bound, a cost, and how it is run.
#ifndef BITSHIFT_SRC_OPS_H
#define BITSHIFT_SRC_OPS_H

#include <functional>
#include <string>
#include <vector>

#include "bounds.h"
#include "graph.h"

namespace bitshift {

// Where the planar values of one sample are while it is run.
struct Sample {
  std::uint8_t *const *base;  // by value: that of sample 0
  const std::size_t *stride;  // by value: bytes from a sample to the next
  std::size_t index;
  void *scratch;

  template <class T = void>
  T *at(int value) const {
    const auto v = static_cast<std::size_t>(value);
    return reinterpret_cast<T *>(base[v] + index * stride[v]);
  }
};

// One node on planar values with the portable kernels, ready to run: owns its decoded constants and holds no state that running
// changes.
struct PlanarStep {
  std::function<void(const Sample &)> run;  // empty: nothing to do (a reshape is an alias)
  std::size_t scratch = 0;                  // bytes that it needs for itself
};

struct OpSpec {
  const char *name;
  void (*check)(const Graph &, Node &);  // refuses a node that breaks a rule; fills node.attrs
  Bound (*bound)(const Graph &, const Node &, const std::vector<Range> &);
  Magnitude (*operations)(const Graph &, const Node &);  // for one sample, for the resource limit
  PlanarStep (*compile)(const Graph &, const Node &, const Bound &);
  int since = 1;  // version of the model file that brought the op
};

// nullptr if there is none.
const OpSpec *find_op(const std::string &name);

// One per op, grouped by the file that defines them.
extern const OpSpec conv_op, linear_op;                                                                   // ops_matrix.cpp
extern const OpSpec conv_transpose_op, interleave_op;                                                     // ops_transposed.cpp
extern const OpSpec embedding_op;                                                                         // ops_embedding.cpp
extern const OpSpec add_op, requantize_op, rescale_op, clamp_op, table_op;                                // ops_integer.cpp
extern const OpSpec affine_op, unary_op, quantize_op, dequantize_op;                                      // ops_float.cpp
extern const OpSpec max_pool_op, avg_pool_op, argmax_op;                                                  // ops_pool.cpp
extern const OpSpec concat_op, pad_op, slice_op, reshape_op, transpose_op, upsample_op;                   // ops_shape.cpp

// Bound of a float node, and of one whose output has its input's range.
Bound no_bound(const Graph &, const Node &, const std::vector<Range> &);
Bound same_bound(const Graph &, const Node &, const std::vector<Range> &inputs);
// One operation an output element.
Magnitude one_each(const Graph &graph, const Node &node);

// Whether the windows of a node run over three axes: the kernels below know two.
inline bool is_volume(const Graph &graph, const Node &node) { return graph.in(node).shape.size() == 4; }

// ---- geometry and alignment as the kernels read them; a 1-d window has height 1, of a 3-d one the last two axes count ----

bsk_conv conv_geometry(const Graph &graph, const Node &node);
bsk_pool pool_geometry(const Graph &graph, const Node &node);
// How concat brings input i to the output's grid.
bsk_add concat_alignment(const Graph &graph, const Node &node, std::size_t i);

// ---- rule 4 as constants in memory ----

// Vectors of one entry a channel, defaults filled in.
struct RequantVectors {
  std::vector<std::int32_t> mult;
  std::vector<std::int64_t> offset;
  std::vector<std::uint8_t> shift, res_shift;
};
RequantVectors requant_vectors(const Graph &graph, const Node &node, std::int64_t channels);
std::vector<float> float_vector(const Graph &graph, const Node &node, Role role, std::int64_t channels);

// Magnitude and range of (acc*mult + offset + residual*2^res_shift) >> shift over all channels.
Bound rule4_bound(const Graph &graph, const Node &node, const std::vector<Range> &acc, Range residual);
// Bound of the sum of the inputs, brought to one grid and rounded once.
Bound aligned_bound(const Graph &graph, const Node &node, const std::vector<Range> &inputs);

}  // namespace bitshift
#endif
