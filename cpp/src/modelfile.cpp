#include "modelfile.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "container.h"
#include "error.h"
#include "ops.h"

namespace bitshift {
namespace {

constexpr std::int64_t kMaxLength = 2147483647;
constexpr std::size_t kMaxNodes = 100000, kMaxRank = 6;

void expect(bool condition, const std::string &message) {
  if (!condition) throw ModelFileError(message);
}

// ---- values ----------------------------------------------------------------------------------------------------------

// One or two digits without a leading zero at text[at], moved past; -1 if there are none.
int two_digits(const std::string &text, std::size_t &at) {
  if (at >= text.size() || text[at] < '1' || text[at] > '9') return -1;
  int n = text[at++] - '0';
  if (at < text.size() && text[at] >= '0' && text[at] <= '9') n = n * 10 + (text[at++] - '0');
  return n;
}

// f32, sB.F or uB.F
ValueType parse_type(const Json &found, const std::string &where) {
  const std::string refusal = where + ": type " + found.text() + ": allowed are f32, sB.F and uB.F, e.g. s8.7";
  expect(found.string(), refusal);
  const std::string &text = *found.string();
  ValueType type;
  if (text == "f32") {
    type.real = true;
    return type;
  }
  expect(text.size() >= 4 && (text[0] == 's' || text[0] == 'u'), refusal);
  std::size_t at = 1;
  type.is_signed = text[0] == 's';
  type.bits = two_digits(text, at);
  expect(type.bits > 0 && at < text.size() && text[at] == '.', refusal);
  at++;
  if (text.compare(at, std::string::npos, "0") != 0) {
    const bool minus = at < text.size() && text[at] == '-';
    at += minus;
    type.frac = two_digits(text, at);
    expect(type.frac > 0 && at == text.size(), refusal);
    if (minus) type.frac = -type.frac;
  }
  const int least = type.is_signed ? 2 : 1, most = type.is_signed ? 32 : 31;
  expect(least <= type.bits && type.bits <= most, where + ": fixed point with " + std::to_string(type.bits) + " bits: allowed are " +
                                                      std::to_string(least) + " to " + std::to_string(most));
  expect(-64 <= type.frac && type.frac <= 64, where + ": fixed point with frac " + std::to_string(type.frac) + ": allowed are -64 to 64");
  return type;
}

Value read_value(const std::string &name, const Json &found) {
  const std::string where = "value " + quoted(name);
  expect(is_name(name), where + ": a name has 1 to 200 printable ASCII characters");
  expect(found.has_exactly({"shape", "type"}), where + ": needs exactly shape and type");
  Value value;
  value.name = name;
  value.shape = int_list(*found.find("shape"), where + ": shape", 1, kMaxLength, kMaxRank);
  value.size = bounded_product(value.shape, kMaxLength);
  expect(value.size > 0, where + ": shape " + shape_text(value.shape) + " has more than 2147483647 elements");
  value.type = parse_type(*found.find("type"), where);
  return value;
}

// ---- meta ------------------------------------------------------------------------------------------------------------

bool finite_list(const Json &found, std::int64_t count, bool zero_allowed) {
  const JsonArray *items = found.array();
  if (!items || items->size() != static_cast<std::size_t>(count)) return false;
  for (const Json &item : *items) {
    if (!item.integer() && !item.real()) return false;  // the JSON reader has refused what is not finite
    if (!zero_allowed && ((item.integer() && *item.integer() == 0) || (item.real() && *item.real() == 0))) return false;
  }
  return true;
}

// Labels, name and preprocess do not steer the engine; they are checked, so that both readers accept the same files.
void check_meta(const Json &meta) {
  expect(meta.object(), "meta: must be an object");
  for (const auto &[key, found] : *meta.object()) {
    if (key == "labels") {
      expect(found.array(), "meta: labels must be a list of strings");
      for (const Json &label : *found.array()) expect(label.string(), "meta: labels must be a list of strings");
    } else if (key == "name") {
      expect(found.string(), "meta: name must be a string");
    } else {
      expect(key == "preprocess", "meta: allowed keys are labels, preprocess and name, found " + quoted(key));
      expect(found.has_exactly({"kind", "channels", "size", "mean", "scale"}),
             "preprocess: needs exactly kind, channels, size, mean and scale");
      const std::string *kind = found.find("kind")->string();
      expect(kind && *kind == "image", "preprocess: kind " + found.find("kind")->text() + ": allowed is 'image'");
      const std::int64_t *channels = found.find("channels")->integer();
      expect(channels && (*channels == 1 || *channels == 3), "preprocess: channels: allowed are 1 and 3");
      expect(int_list(*found.find("size"), "preprocess: size", 1, 65535, 2).size() == 2, "preprocess: size must be [height, width]");
      expect(finite_list(*found.find("mean"), *channels, true), "preprocess: mean must be a list of channels finite numbers");
      expect(finite_list(*found.find("scale"), *channels, false), "preprocess: scale must be a list of channels finite numbers, none 0");
    }
  }
}

// ---- constants -------------------------------------------------------------------------------------------------------

template <class T>
std::vector<std::int64_t> widen(const Tensor &tensor) {
  std::vector<std::int64_t> out(tensor.bytes / sizeof(T));
  for (std::size_t i = 0; i < out.size(); i++) {
    T item;
    std::memcpy(&item, tensor.data + i * sizeof(T), sizeof(T));
    out[i] = item;
  }
  return out;
}

std::vector<std::int64_t> integers(const Tensor &tensor) {
  switch (tensor.dtype) {
    case Stored::u8: return widen<std::uint8_t>(tensor);
    case Stored::i8: return widen<std::int8_t>(tensor);
    case Stored::i16: return widen<std::int16_t>(tensor);
    case Stored::i32: return widen<std::int32_t>(tensor);
    default: return widen<std::int64_t>(tensor);
  }
}

// Packed rows, which stay where they are.
Constant read_codes(const std::string &name, const Json &found, const std::unordered_map<std::string, Tensor> &tensors) {
  const std::string where = "codes " + quoted(name);
  expect(found.has_exactly({"format", "shape"}), where + ": needs exactly format and shape");
  const std::string *format = found.find("format")->string();
  Constant out;
  out.name = name;
  out.format = format ? find_format(*format) : nullptr;
  expect(out.format, where + ": unknown format " + found.find("format")->text() + "; this engine may be older than the file");
  out.shape = int_list(*found.find("shape"), where + ": shape", 1, kMaxLength, 8);
  const std::int64_t total = bounded_product(out.shape, kMaxLength);
  expect(!out.shape.empty() && total > 0, where + ": shape " + shape_text(out.shape) + ": 1 to 8 axes, at most 2147483647 codes");
  const auto tensor = tensors.find(name);
  expect(tensor != tensors.end(), where + ": no tensor of that name");
  const std::int64_t rows = out.shape[0], per_row = total / rows, row_bytes = (per_row * out.format->bits + 7) / 8;
  const Tensor &packed = tensor->second;
  expect(packed.dtype == Stored::u8 && packed.shape.size() == 1 && packed.bytes == static_cast<std::size_t>(rows * row_bytes),
         where + ": a " + stored_name(packed.dtype) + " tensor of shape " + shape_text(packed.shape) + "; shape " + shape_text(out.shape) +
             " in " + out.format->name + " needs U8 of shape [" + std::to_string(rows * row_bytes) + "]");
  out.codes = {packed.data, out.format, rows, per_row};
  out.sums = check_codes(out.codes, where);
  return out;
}

bool stored_dtype_allowed(Role role, Stored found, const ValueType &out) {
  switch (role) {
    case Role::offset: return found == Stored::i32 || found == Stored::i64;
    case Role::mult: return found == Stored::u8 || found == Stored::i32;
    case Role::codes: case Role::shift: case Role::res_shift: return found == Stored::u8;
    case Role::weight: case Role::scale: case Role::bias: return found == Stored::f32;
    case Role::table: break;
  }
  if (out.real) return false;
  switch (out.dtype()) {
    case BSK_U8: return found == Stored::u8;
    case BSK_I8: return found == Stored::i8;
    case BSK_I16: return found == Stored::i16;
    default: return found == Stored::i32;
  }
}

Constant read_constant(const std::string &name, Role role, const Tensor &tensor, const ValueType &out) {
  Constant constant;
  constant.name = name;
  constant.role = role;
  constant.shape = tensor.shape;
  constant.stored = out.dtype();
  if (tensor.dtype == Stored::f32) {
    constant.reals.resize(tensor.bytes / sizeof(float));
    if (tensor.bytes) std::memcpy(constant.reals.data(), tensor.data, tensor.bytes);
  } else {
    constant.ints = integers(tensor);
  }
  return constant;
}

// ---- the graph -------------------------------------------------------------------------------------------------------

class Reader {
 public:
  Reader(const ModelBytes &bytes, const Container &file) : bytes_(bytes), file_(file) {}

  Graph run() {
    check_metadata();
    const Json tree = parse_object(file_.metadata.at("graph"), "graph");
    expect(tree.has_exactly({"inputs", "outputs", "values", "nodes", "codes", "meta"}),
           "graph: needs exactly inputs, outputs, values, nodes, codes and meta");
    expect(tree.find("values")->object(), "values must be an object");
    expect(tree.find("codes")->object(), "codes must be an object");
    const JsonArray *nodes = tree.find("nodes")->array();
    expect(nodes && nodes->size() <= kMaxNodes, "nodes must be a list of at most " + std::to_string(kMaxNodes));
    for (const auto &[name, found] : *tree.find("values")->object()) {
      value_index_.emplace(name, static_cast<int>(graph_.values.size()));
      graph_.values.push_back(read_value(name, found));
    }
    check_meta(*tree.find("meta"));
    for (const auto &[name, found] : *tree.find("codes")->object()) {
      constant_index_.emplace(name, static_cast<int>(graph_.constants.size()));
      if (const auto at = file_.tensors.find(name); at != file_.tensors.end()) bytes_.apart(at->second.data, at->second.bytes);
      graph_.constants.push_back(read_codes(name, found, file_.tensors));
      const PackedCodes &codes = graph_.constants.back().codes;
      bytes_.release(codes.data, static_cast<std::size_t>(codes.bytes()));
      used_.push_back(false);
    }
    defined_.assign(graph_.values.size(), false);
    for (int index : graph_.inputs = names(*tree.find("inputs"), "inputs")) {
      expect(!defined_[static_cast<std::size_t>(index)], "input " + quoted(name_of(index)) + " is listed twice");
      defined_[static_cast<std::size_t>(index)] = true;
    }
    for (std::size_t i = 0; i < nodes->size(); i++) read_node(i, (*nodes)[i]);
    graph_.outputs = names(*tree.find("outputs"), "outputs");
    std::vector<int> sorted = graph_.outputs;
    std::sort(sorted.begin(), sorted.end());
    expect(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(), "an output is listed twice");
    expect(!graph_.inputs.empty() && !graph_.outputs.empty(), "a graph needs at least one input and one output");
    for (std::size_t i = 0; i < defined_.size(); i++) expect(defined_[i], "value " + quoted(graph_.values[i].name) + " is never computed");
    check_usage();
    for (Node &node : graph_.nodes) {
      node.op->check(graph_, node);
      node.raw = nullptr;  // the tree ends with this function
    }
    check_version();
    return std::move(graph_);
  }

 private:
  void check_metadata() const {
    const auto &found = file_.metadata;
    expect(found.size() == 4 && found.count("format") && found.count("format_version") && found.count("producer") &&
               found.count("graph") && found.at("format") == "bitshift",
           "metadata needs exactly format (bitshift), format_version, producer and graph; is this a bitshift model?");
    const std::string &version = found.at("format_version");
    expect(version == "1" || version == "2",
           "format version " + quoted(version) + "; this program reads the versions 1 and 2: use a matching bitshift");
  }

  // A file says the lowest version that has its ops.
  void check_version() const {
    int needed = 1;
    for (const Node &node : graph_.nodes) {
      needed = std::max(needed, node.op->since);
      if ((node.op == &conv_op || node.op == &max_pool_op || node.op == &avg_pool_op) && is_volume(graph_, node)) needed = 2;
    }
    expect(file_.metadata.at("format_version") == std::to_string(needed),
           "format version " + file_.metadata.at("format_version") + "; the ops of the graph ask for version " + std::to_string(needed));
  }

  const std::string &name_of(int index) const { return graph_.values[static_cast<std::size_t>(index)].name; }

  int value_named(const Json &found, const std::string &where) const {
    expect(found.string(), where + ": must be names of values");
    const auto index = value_index_.find(*found.string());
    expect(index != value_index_.end(), where + ": value " + quoted(*found.string()) + " has no description");
    return index->second;
  }

  std::vector<int> names(const Json &found, const std::string &where) const {
    expect(found.array(), where + ": must be a list of names");
    std::vector<int> out;
    for (const Json &item : *found.array()) out.push_back(value_named(item, where));
    return out;
  }

  void read_node(std::size_t number, const Json &found) {
    const std::string where = "node " + std::to_string(number);
    expect(found.has_exactly({"op", "inputs", "output", "attrs", "consts", "source"}),
           where + ": needs exactly attrs, consts, inputs, op, output, source");
    expect(found.find("op")->string() && found.find("source")->string(), where + ": op and source must be strings");
    expect(found.find("attrs")->object(), where + ": attrs must be an object");
    expect(found.find("consts")->object(), where + ": consts must be an object");
    Node node;
    node.op = find_op(*found.find("op")->string());
    expect(node.op, where + ": unknown op " + found.find("op")->text() + "; this engine may be older than the file");
    node.source = *found.find("source")->string();
    node.inputs = names(*found.find("inputs"), where + ": inputs");
    node.output = value_named(*found.find("output"), where + ": output");
    node.raw = found.find("attrs");
    for (int index : node.inputs)
      expect(defined_[static_cast<std::size_t>(index)], graph_.place(node) + ": input " + quoted(name_of(index)) + " is not computed before it");
    expect(!defined_[static_cast<std::size_t>(node.output)], graph_.place(node) + ": value " + quoted(name_of(node.output)) + " is written twice");
    defined_[static_cast<std::size_t>(node.output)] = true;
    node.consts.fill(-1);
    for (const auto &[role, name] : *found.find("consts")->object()) bind_constant(node, role, name);
    graph_.nodes.push_back(std::move(node));
  }

  void bind_constant(Node &node, const std::string &role_text, const Json &found) {
    const std::string where = graph_.place(node) + ": constant " + found.text() + " (" + quoted(role_text) + ")";
    int index = 0;
    while (index < kRoles && role_text != role_name(static_cast<Role>(index))) index++;
    expect(index < kRoles, where + ": unknown role");
    const auto role = static_cast<Role>(index);
    expect(found.string() && is_name(*found.string()), where + ": must be a name");
    const std::string &name = *found.string();
    const auto tensor = file_.tensors.find(name);
    expect(tensor != file_.tensors.end(), where + " is not in the file");
    auto known = constant_index_.find(name);
    const bool is_codes = known != constant_index_.end() && graph_.constants[static_cast<std::size_t>(known->second)].role == Role::codes;
    expect((role == Role::codes) == is_codes, where + ": exactly the codes are listed in 'codes'");
    expect(stored_dtype_allowed(role, tensor->second.dtype, graph_.out(node).type),
           where + " is " + stored_name(tensor->second.dtype) + ", which its role does not allow");
    if (known == constant_index_.end()) {
      known = constant_index_.emplace(name, static_cast<int>(graph_.constants.size())).first;
      graph_.constants.push_back(read_constant(name, role, tensor->second, graph_.out(node).type));
      used_.push_back(false);
    }
    const auto at = static_cast<std::size_t>(known->second);
    expect(graph_.constants[at].role == role, where + " is used as " + role_name(graph_.constants[at].role) + " elsewhere");
    used_[at] = true;
    node.consts[static_cast<std::size_t>(index)] = known->second;
  }

  void check_usage() const {
    for (const auto &[name, tensor] : file_.tensors) {
      const auto index = constant_index_.find(name);
      expect(index != constant_index_.end() && used_[static_cast<std::size_t>(index->second)],
             "tensor " + quoted(name) + " is used by no node");
    }
  }

  const ModelBytes &bytes_;
  const Container &file_;
  Graph graph_;
  std::unordered_map<std::string, int> value_index_, constant_index_;
  std::vector<bool> defined_, used_;
};

}  // namespace

Graph read_model(const ModelBytes &file) {
  const Container container = read_container(file.data(), file.size());
  return Reader(file, container).run();
}

}  // namespace bitshift
