// The checks that ops share: attributes, constants, shapes and types. The twin of core/ops/rules.py: both readers must
// accept the same files, so a rule that changes there changes here.
#ifndef BITSHIFT_SRC_RULES_H
#define BITSHIFT_SRC_RULES_H

#include <string>
#include <vector>

#include "error.h"
#include "graph.h"

namespace bitshift {

constexpr std::int64_t kMaxStep = 65535;       // stride, dilation, padding, factor
constexpr std::size_t kMaxSpatial = 3;         // axes of a window
constexpr std::int64_t kMaxLength = 2147483647;
constexpr std::int64_t kMaxMult = 65535, kMaxShift = 62;

// Throws the ModelFileError of one broken rule.
[[noreturn]] void refuse(const Graph &graph, const Node &node, const std::string &what, const std::string &found,
                         const std::string &allowed);

struct Parts {
  std::size_t least_inputs = 1, most_inputs = 1;
  std::vector<const char *> attrs = {}, optional = {};
  std::vector<Role> consts = {};
};
// Number of inputs, the exact set of attributes, no constant beyond `consts`.
void check_parts(const Graph &graph, const Node &node, const Parts &parts);

// Not both fixed point and f32 among inputs and output.
void check_kinds(const Graph &graph, const Node &node);
const ValueType &check_fixed(const Graph &graph, const Node &node, const Value &value, int max_bits = 32);
void check_same_type(const Graph &graph, const Node &node);
void check_shape(const Graph &graph, const Node &node, const Shape &shape);
bool is_float(const Graph &graph, const Node &node);

// Attributes; refused when missing is impossible here: check_parts has run.
std::int64_t integer(const Graph &graph, const Node &node, const char *name, std::int64_t lo, std::int64_t hi);
Shape integers(const Graph &graph, const Node &node, const char *name, std::size_t count, std::int64_t lo, std::int64_t hi);
double number(const Graph &graph, const Node &node, const char *name);
std::string word(const Graph &graph, const Node &node, const char *name);
std::vector<std::pair<std::int64_t, std::int64_t>> padding_pairs(const Graph &graph, const Node &node, std::size_t count);
bool has_attr(const Node &node, const char *name);

// attrs.lo, attrs.hi: what the output's type and the optional attribute `clamp` leave.
void read_clamp(const Graph &graph, Node &node);

// Every vector constant has one axis and `channels` elements (or one, if `one` is allowed), in the range of its role.
void check_vectors(const Graph &graph, const Node &node, std::int64_t channels, bool one);

// The attribute groups, which divides the channels of the input and the outputs of weights of shape w; and how many spatial axes
// an input (channels, *spatial) has.
std::int64_t check_groups(const Graph &graph, const Node &node, const Shape &w);
std::size_t check_spatial(const Graph &graph, const Node &node);

// Fills stride, dilation and padding of a window op with attrs.kernel set, and gives the spatial output lengths.
Shape window_shape(const Graph &graph, Node &node, bool dilated);

// Left shifts that bring the inputs to the finest grid among inputs and output, and the right shift from there.
struct Alignment {
  std::vector<int> up;
  int down = 0;
};
Alignment alignment(const Graph &graph, const Node &node);
void check_alignment(const Graph &graph, const Node &node);

}  // namespace bitshift
#endif
