#include "rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops.h"

namespace bitshift {

void refuse(const Graph &graph, const Node &node, const std::string &what, const std::string &found, const std::string &allowed) {
  throw ModelFileError(graph.place(node) + ": " + what + " is " + found + "; allowed: " + allowed);
}

namespace {

std::string range_text(std::int64_t lo, std::int64_t hi) { return std::to_string(lo) + " to " + std::to_string(hi); }

bool contains(const std::vector<const char *> &names, const std::string &name) {
  return std::any_of(names.begin(), names.end(), [&](const char *n) { return name == n; });
}

std::string list_text(const std::vector<const char *> &names) {
  std::string out;
  for (const char *name : names) out += (out.empty() ? "" : ", ") + std::string(name);
  return out.empty() ? "none" : out;
}

}  // namespace

void check_parts(const Graph &graph, const Node &node, const Parts &parts) {
  if (node.inputs.size() < parts.least_inputs || node.inputs.size() > parts.most_inputs)
    refuse(graph, node, "the number of inputs", std::to_string(node.inputs.size()),
           range_text(static_cast<std::int64_t>(parts.least_inputs), static_cast<std::int64_t>(parts.most_inputs)));
  for (const auto &[key, found] : *node.raw->object())
    if (!contains(parts.attrs, key) && !contains(parts.optional, key))
      refuse(graph, node, "an attribute", quoted(key), list_text(parts.attrs) + "; optional: " + list_text(parts.optional));
  for (const char *name : parts.attrs)
    if (!node.raw->find(name)) refuse(graph, node, std::string("attribute '") + name + "'", "missing", list_text(parts.attrs));
  for (int i = 0; i < kRoles; i++) {
    const auto role = static_cast<Role>(i);
    if (node.constant(role) >= 0 && std::find(parts.consts.begin(), parts.consts.end(), role) == parts.consts.end())
      refuse(graph, node, "a constant", role_name(role), "the roles that ARCHITECTURE.md, 'The graph', lists for this op and type");
  }
}

bool is_float(const Graph &graph, const Node &node) { return graph.in(node).type.real; }

void check_kinds(const Graph &graph, const Node &node) {
  const Value &first = graph.in(node);
  auto check_one = [&](const Value &value) {
    if (value.type.real != first.type.real)
      refuse(graph, node, "the type of " + quoted(value.name), value.type.text(),
             "fixed point or f32 as " + quoted(first.name) + " (" + first.type.text() + "); use quantize or dequantize");
  };
  for (std::size_t i = 0; i < node.inputs.size(); i++) check_one(graph.in(node, i));
  check_one(graph.out(node));
}

const ValueType &check_fixed(const Graph &graph, const Node &node, const Value &value, int max_bits) {
  if (value.type.real || value.type.bits > max_bits)
    refuse(graph, node, "the type of " + quoted(value.name), value.type.text(), "fixed point of at most " + std::to_string(max_bits) + " bits");
  return value.type;
}

void check_same_type(const Graph &graph, const Node &node) {
  if (graph.out(node).type != graph.in(node).type)
    refuse(graph, node, "the output's type", graph.out(node).type.text(), graph.in(node).type.text() + ", the input's");
}

void check_shape(const Graph &graph, const Node &node, const Shape &shape) {
  if (graph.out(node).shape != shape) refuse(graph, node, "the output's shape", shape_text(graph.out(node).shape), shape_text(shape));
}

bool has_attr(const Node &node, const char *name) { return node.raw->find(name) != nullptr; }

std::int64_t integer(const Graph &graph, const Node &node, const char *name, std::int64_t lo, std::int64_t hi) {
  const std::int64_t *found = node.raw->find(name)->integer();
  if (!found || *found < lo || *found > hi)
    refuse(graph, node, std::string("attribute '") + name + "'", node.raw->find(name)->text(), "an integer from " + range_text(lo, hi));
  return *found;
}

Shape integers(const Graph &graph, const Node &node, const char *name, std::size_t count, std::int64_t lo, std::int64_t hi) {
  const JsonArray *items = node.raw->find(name)->array();
  Shape out;
  if (items && items->size() == count)
    for (const Json &item : *items)
      if (item.integer() && *item.integer() >= lo && *item.integer() <= hi) out.push_back(*item.integer());
  if (!items || items->size() != count || out.size() != count)
    refuse(graph, node, std::string("attribute '") + name + "'", node.raw->find(name)->text(),
           std::to_string(count) + " integers from " + range_text(lo, hi));
  return out;
}

double number(const Graph &graph, const Node &node, const char *name) {
  const Json &found = *node.raw->find(name);
  const double value = found.integer() ? static_cast<double>(*found.integer()) : found.real() ? *found.real() : NAN;
  if (!(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max())))
    refuse(graph, node, std::string("attribute '") + name + "'", found.text(), "a finite number in the range of float32");
  return value;
}

std::string word(const Graph &graph, const Node &node, const char *name) {
  const std::string *found = node.raw->find(name)->string();
  if (!found) refuse(graph, node, std::string("attribute '") + name + "'", node.raw->find(name)->text(), "a string");
  return *found;
}

std::vector<std::pair<std::int64_t, std::int64_t>> padding_pairs(const Graph &graph, const Node &node, std::size_t count) {
  const Json &found = *node.raw->find("padding");
  std::vector<std::pair<std::int64_t, std::int64_t>> out;
  if (found.array() && found.array()->size() == count) {
    for (const Json &pair : *found.array()) {
      const JsonArray *ends = pair.array();
      if (!ends || ends->size() != 2) break;
      const std::int64_t *before = (*ends)[0].integer(), *after = (*ends)[1].integer();
      if (!before || !after || *before < 0 || *before > kMaxStep || *after < 0 || *after > kMaxStep) break;
      out.emplace_back(*before, *after);
    }
  }
  if (!found.array() || found.array()->size() != count || out.size() != count)
    refuse(graph, node, "attribute 'padding'", found.text(), std::to_string(count) + " pairs (before, after), each 0 to 65535");
  return out;
}

void read_clamp(const Graph &graph, Node &node) {
  const ValueType &type = graph.out(node).type;
  node.attrs.lo = type.lo();
  node.attrs.hi = type.hi();
  if (!has_attr(node, "clamp")) return;
  const Shape pair = integers(graph, node, "clamp", 2, type.lo(), type.hi());
  if (pair[0] > pair[1]) refuse(graph, node, "attribute 'clamp'", shape_text(pair), "lo <= hi");
  node.attrs.lo = pair[0];
  node.attrs.hi = pair[1];
}

void check_vectors(const Graph &graph, const Node &node, std::int64_t channels, bool one) {
  for (Role role : {Role::offset, Role::mult, Role::shift, Role::res_shift, Role::scale, Role::bias}) {
    const Constant *found = graph.constant(node, role);
    if (!found) continue;
    const bool fits = found->shape.size() == 1 && (found->shape[0] == channels || (one && found->shape[0] == 1));
    if (!fits)
      refuse(graph, node, role_name(role), "of shape " + shape_text(found->shape), shape_text({channels}) + (one ? " or [1]" : ""));
    if (std::any_of(found->reals.begin(), found->reals.end(), [](float v) { return !std::isfinite(v); }))
      refuse(graph, node, role_name(role), "not finite", "finite numbers");
    if (role == Role::offset) continue;
    const std::int64_t lo = role == Role::mult ? 1 : 0, hi = role == Role::mult ? kMaxMult : kMaxShift;
    for (std::int64_t v : found->ints)
      if (v < lo || v > hi) refuse(graph, node, role_name(role), std::to_string(v), range_text(lo, hi));
  }
}

std::size_t check_spatial(const Graph &graph, const Node &node) {
  const Shape &x = graph.in(node).shape;
  if (x.size() < 2 || x.size() > kMaxSpatial + 1)
    refuse(graph, node, "the input's shape", shape_text(x), "(channels, *spatial) with 1 to 3 spatial axes");
  return x.size() - 1;
}

std::int64_t check_groups(const Graph &graph, const Node &node, const Shape &w) {
  const std::int64_t channels = graph.in(node).shape[0], groups = integer(graph, node, "groups", 1, channels);
  if (channels % groups || w[0] % groups || w[1] != channels / groups)
    refuse(graph, node, "the shape of the weights for " + std::to_string(channels) + " input channels in " + std::to_string(groups) + " groups",
           shape_text(w), "(O, " + std::to_string(channels) + " / groups, *kernel) with O and " + std::to_string(channels) + " multiples of groups");
  return groups;
}

Shape window_shape(const Graph &graph, Node &node, bool dilated) {
  const Shape &in = graph.in(node).shape;
  Attrs &a = node.attrs;
  const std::size_t count = a.kernel.size();
  if (count < 1 || count > kMaxSpatial || in.size() != count + 1)
    refuse(graph, node, "the input's shape", shape_text(in), "(channels, *spatial) with 1 to 3 spatial axes, as many as the kernel has");
  a.stride = integers(graph, node, "stride", count, 1, kMaxStep);
  a.dilation = dilated ? integers(graph, node, "dilation", count, 1, kMaxStep) : Shape(count, 1);
  a.padding = padding_pairs(graph, node, count);
  Shape lengths;
  for (std::size_t i = 0; i < count; i++) {
    // At most 2^31 * 2^16: far from the limits of 64 bits.
    const std::int64_t extent = (a.kernel[i] - 1) * a.dilation[i] + 1, padded = in[i + 1] + a.padding[i].first + a.padding[i].second;
    if (extent > padded)
      refuse(graph, node, "the kernel's extent on spatial axis " + std::to_string(i), std::to_string(extent),
             "at most " + std::to_string(padded) + ", the padded input");
    lengths.push_back((padded - extent) / a.stride[i] + 1);
  }
  return lengths;
}

Alignment alignment(const Graph &graph, const Node &node) {
  const int out = graph.out(node).type.frac;
  int finest = out;
  for (std::size_t i = 0; i < node.inputs.size(); i++) finest = std::max(finest, graph.in(node, i).type.frac);
  Alignment found;
  for (std::size_t i = 0; i < node.inputs.size(); i++) found.up.push_back(finest - graph.in(node, i).type.frac);
  found.down = finest - out;
  return found;
}

void check_alignment(const Graph &graph, const Node &node) {
  for (std::size_t i = 0; i < node.inputs.size(); i++) check_fixed(graph, node, graph.in(node, i));
  check_fixed(graph, node, graph.out(node));
  const Alignment found = alignment(graph, node);
  const int largest = std::max(found.down, *std::max_element(found.up.begin(), found.up.end()));
  if (largest > kMaxShift)
    refuse(graph, node, "a shift between the grids", std::to_string(largest), "at most 62; bring the fracs of inputs and output closer");
}

}  // namespace bitshift
