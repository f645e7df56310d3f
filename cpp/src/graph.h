// The graph of a model file: values, nodes in execution order, constants. The twin of core/graph.py and core/fixed.py.
#ifndef BITSHIFT_SRC_GRAPH_H
#define BITSHIFT_SRC_GRAPH_H

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../kernels/portable.h"
#include "bitshift/formats.h"
#include "codes.h"
#include "json.h"

namespace bitshift {

using Shape = std::vector<std::int64_t>;

std::string shape_text(const Shape &shape);

// Fixed point (an integer q that stands for q * 2^-frac) or float32.
struct ValueType {
  bool real = false;
  int bits = 0, frac = 0;
  bool is_signed = true;

  std::int64_t lo() const { return is_signed ? -(std::int64_t{1} << (bits - 1)) : 0; }
  std::int64_t hi() const { return (std::int64_t{1} << (is_signed ? bits - 1 : bits)) - 1; }
  bsk_dtype dtype() const;
  std::string text() const;
  bool operator==(const ValueType &o) const {
    return real == o.real && (real || (bits == o.bits && frac == o.frac && is_signed == o.is_signed));
  }
  bool operator!=(const ValueType &o) const { return !(*this == o); }
};

struct Value {
  std::string name;
  Shape shape;
  ValueType type;
  std::int64_t size = 1;  // elements of a sample; at most 2^31-1

  std::size_t bytes() const { return static_cast<std::size_t>(size) * bsk_dtype_size(type.dtype()); }
};

enum class Role { codes, offset, mult, shift, res_shift, weight, scale, bias, table };
constexpr int kRoles = 9;
const char *role_name(Role role);

// One constant: packed codes with the sums of their rows, integers or reals, by role.
struct Constant {
  std::string name;
  Role role = Role::codes;
  Shape shape;
  const bitshift_format *format = nullptr;  // codes only
  PackedCodes codes;
  std::vector<LevelSums> sums;       // of each row of codes
  std::vector<std::int64_t> ints;    // offset, mult, shift, res_shift, table
  std::vector<float> reals;          // weight, scale, bias
  bsk_dtype stored = BSK_U8;         // table: the dtype in the file
  std::shared_ptr<const std::vector<std::uint8_t>> owned;  // what codes.data points to where that is not the file
};

// The attributes of a node, after its op has checked them. Which are meaningful depends on the op.
struct Attrs {
  const bitshift_format *format = nullptr;
  Shape kernel, stride, dilation, output_padding, factor;     // windows and upsample; per spatial axis
  std::vector<std::pair<std::int64_t, std::int64_t>> padding;  // windows per spatial axis; pad per axis
  std::int64_t groups = 1, axis = 0;
  std::int64_t lo = 0, hi = 0;  // what the type and clamp leave, for integer outputs
  float real_lo = 0, real_hi = 0;
  std::int64_t mult = 1, offset = 0;  // avg_pool
  int shift = 0;
  std::int64_t value = 0;  // pad
  float real_value = 0, scale = 0;
  double alpha = 0;
  int fn = 0;                // unary
  bool half_up = false;      // quantize
  Shape start, step, perm;   // slice, transpose
};

struct OpSpec;

struct Node {
  const OpSpec *op = nullptr;
  std::vector<int> inputs;  // indices into Graph::values
  int output = -1;
  const Json *raw = nullptr;           // attributes as read; valid while the file is being loaded
  std::array<int, kRoles> consts{};    // index into Graph::constants, -1 if absent
  std::string source;
  Attrs attrs;

  int constant(Role role) const { return consts[static_cast<std::size_t>(role)]; }
};

struct Graph {
  std::vector<int> inputs, outputs;
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::vector<Constant> constants;

  const Value &in(const Node &node, std::size_t i = 0) const { return values[static_cast<std::size_t>(node.inputs[i])]; }
  const Value &out(const Node &node) const { return values[static_cast<std::size_t>(node.output)]; }
  // nullptr if the node does not name the role.
  const Constant *constant(const Node &node, Role role) const {
    const int i = node.constant(role);
    return i < 0 ? nullptr : &constants[static_cast<std::size_t>(i)];
  }
  // "node 'y' [conv] (module 'layer1.0')", how messages name a node.
  std::string place(const Node &node) const;
};

// The format called `name`, nullptr if there is none.
const bitshift_format *find_format(const std::string &name);

}  // namespace bitshift
#endif
