// Ops on float32 values, and the two borders between floats and fixed point.
#include <algorithm>
#include <cmath>
#include <memory>

#include "ops.h"
#include "rules.h"

namespace bitshift {
namespace {

std::size_t count(const Graph &graph, const Node &node) { return static_cast<std::size_t>(graph.out(node).size); }

void check_float_input(const Graph &graph, const Node &node, const char *instead) {
  if (!is_float(graph, node)) refuse(graph, node, "the input's type", graph.in(node).type.text(), std::string("f32; use ") + instead + " for integers");
}

// ---- affine ----------------------------------------------------------------------------------------------------------

std::int64_t channels_of(const Graph &graph, const Node &node) {
  const Shape &x = graph.in(node).shape;
  return x.empty() ? 1 : x[0];
}

void check_affine(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {}, {}, {Role::scale, Role::bias}});
  check_kinds(graph, node);
  check_float_input(graph, node, "rescale");
  check_shape(graph, node, graph.in(node).shape);
  check_vectors(graph, node, channels_of(graph, node), true);
}

PlanarStep compile_affine(const Graph &graph, const Node &node, const Bound &) {
  struct Vectors {
    std::vector<float> scale, bias;
  };
  const std::size_t channels = static_cast<std::size_t>(channels_of(graph, node)), each = count(graph, node) / channels;
  const auto v = std::make_shared<Vectors>(Vectors{float_vector(graph, node, Role::scale, static_cast<std::int64_t>(channels)),
                                                   float_vector(graph, node, Role::bias, static_cast<std::int64_t>(channels))});
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) {
    for (std::size_t c = 0; c < channels; c++)
      bsk_affine_f32(v->scale[c], v->bias[c], f.at<float>(x) + c * each, f.at<float>(out) + c * each, each);
  }};
}

// ---- unary -----------------------------------------------------------------------------------------------------------

// In double, rounded to float once. The kernels' C99 has no maths library, so these live here.
double sigmoid(double x) {
  const double small = std::exp(-std::abs(x));  // never overflows
  return (x >= 0 ? 1.0 : small) / (1.0 + small);
}

double hardsigmoid(double x) { return (x + 3.0 < 0.0 ? 0.0 : x + 3.0 > 6.0 ? 6.0 : x + 3.0) / 6.0; }

using Function = double (*)(double x, double alpha);

struct NamedFunction {
  const char *name;
  bool with_alpha;
  Function fn;
};

const NamedFunction kFunctions[] = {
    {"sigmoid", false, [](double x, double) { return sigmoid(x); }},
    {"tanh", false, [](double x, double) { return std::tanh(x); }},
    {"gelu", false, [](double x, double) { return x * 0.5 * (1.0 + std::erf(x * std::sqrt(0.5))); }},
    {"gelu_tanh", false,
     [](double x, double) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }},
    {"silu", false, [](double x, double) { return x * sigmoid(x); }},
    {"hardswish", false, [](double x, double) { return x * hardsigmoid(x); }},
    {"hardsigmoid", false, [](double x, double) { return hardsigmoid(x); }},
    {"leaky_relu", true, [](double x, double alpha) { return x > 0 ? x : alpha * x; }},
    {"elu", true, [](double x, double alpha) { return x > 0 ? x : alpha * std::expm1(x); }},
};

void check_unary(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"fn"}, {"alpha"}, {}});
  check_kinds(graph, node);
  check_float_input(graph, node, "table");
  const std::string name = word(graph, node, "fn");
  const auto found = std::find_if(std::begin(kFunctions), std::end(kFunctions), [&](const NamedFunction &f) { return name == f.name; });
  if (found == std::end(kFunctions)) refuse(graph, node, "attribute 'fn'", quoted(name), "a function that this engine knows");
  if (has_attr(node, "alpha") != found->with_alpha)
    refuse(graph, node, "attribute 'alpha'", found->with_alpha ? "missing" : "given", "a number for elu and leaky_relu, else none");
  if (found->with_alpha) node.attrs.alpha = number(graph, node, "alpha");
  node.attrs.fn = static_cast<int>(found - std::begin(kFunctions));
  check_shape(graph, node, graph.in(node).shape);
}

PlanarStep compile_unary(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t n = count(graph, node);
  const Function fn = kFunctions[node.attrs.fn].fn;
  const double alpha = node.attrs.alpha;
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) {
    const float *in = f.at<float>(x);
    float *y = f.at<float>(out);
    for (std::size_t i = 0; i < n; i++) y[i] = static_cast<float>(fn(in[i], alpha));
  }};
}

// ---- quantize, dequantize --------------------------------------------------------------------------------------------

void check_quantize(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {"rounding"}, {}, {}});
  check_float_input(graph, node, "requantize");
  check_fixed(graph, node, graph.out(node));
  const std::string rounding = word(graph, node, "rounding");
  if (rounding != "half_up" && rounding != "floor") refuse(graph, node, "attribute 'rounding'", quoted(rounding), "half_up or floor");
  node.attrs.half_up = rounding == "half_up";
  check_shape(graph, node, graph.in(node).shape);
}

Bound bound_quantize(const Graph &graph, const Node &node, const std::vector<Range> &) {
  Bound bound;
  bound.range = {graph.out(node).type.lo(), graph.out(node).type.hi()};
  return bound;
}

PlanarStep compile_quantize(const Graph &graph, const Node &node, const Bound &) {
  const ValueType type = graph.out(node).type;
  const std::size_t n = count(graph, node);
  const double factor = std::ldexp(1.0, type.frac), half = node.attrs.half_up ? 0.5 : 0.0;
  const std::int32_t lo = static_cast<std::int32_t>(type.lo()), hi = static_cast<std::int32_t>(type.hi());
  const bsk_dtype out_type = type.dtype();
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) { bsk_quantize(factor, half, lo, hi, f.at<float>(x), f.at(out), out_type, n); }};
}

void check_dequantize(const Graph &graph, Node &node) {
  check_parts(graph, node, {1, 1, {}, {}, {}});
  check_fixed(graph, node, graph.in(node));
  if (!graph.out(node).type.real) refuse(graph, node, "the output's type", graph.out(node).type.text(), "f32");
  check_shape(graph, node, graph.in(node).shape);
}

PlanarStep compile_dequantize(const Graph &graph, const Node &node, const Bound &) {
  const std::size_t n = count(graph, node);
  const double factor = std::ldexp(1.0, -graph.in(node).type.frac);
  const bsk_dtype in = graph.in(node).type.dtype();
  const int x = node.inputs[0], out = node.output;
  return {[=](const Sample &f) { bsk_dequantize(factor, f.at(x), in, f.at<float>(out), n); }};
}

}  // namespace

const OpSpec affine_op = {"affine", check_affine, no_bound, one_each, compile_affine};
const OpSpec unary_op = {"unary", check_unary, no_bound, one_each, compile_unary};
const OpSpec quantize_op = {"quantize", check_quantize, bound_quantize, one_each, compile_quantize};
const OpSpec dequantize_op = {"dequantize", check_dequantize, no_bound, one_each, compile_dequantize};

}  // namespace bitshift
