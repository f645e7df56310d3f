#include "graph.h"

#include <cstring>

#include "error.h"
#include "ops.h"

namespace bitshift {

std::string shape_text(const Shape &shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); i++) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// uint8 for unsigned up to 8 bits, else the smallest of int8, int16, int32 that holds the type.
bsk_dtype ValueType::dtype() const {
  if (real) return BSK_F32;
  if (!is_signed && bits <= 8) return BSK_U8;
  const int need = is_signed ? bits : bits + 1;
  return need <= 8 ? BSK_I8 : need <= 16 ? BSK_I16 : BSK_I32;
}

std::string ValueType::text() const {
  if (real) return "f32";
  return (is_signed ? "s" : "u") + std::to_string(bits) + "." + std::to_string(frac);
}

const char *role_name(Role role) {
  static const char *const names[kRoles] = {"codes", "offset", "mult", "shift", "res_shift", "weight", "scale", "bias", "table"};
  return names[static_cast<std::size_t>(role)];
}

std::string Graph::place(const Node &node) const {
  std::string text = "node " + quoted(out(node).name) + " [" + node.op->name + "]";
  if (!node.source.empty()) text += " (module " + quoted(node.source) + ")";
  return text;
}

const bitshift_format *find_format(const std::string &name) {
  for (const bitshift_format &format : bitshift_formats)
    if (name == format.name) return &format;
  return nullptr;
}

}  // namespace bitshift
