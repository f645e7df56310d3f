#include "container.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "error.h"

namespace bitshift {
namespace {

constexpr std::uint64_t kMaxHeader = 100000000;
constexpr std::int64_t kMaxLength = 2147483647;
constexpr std::array<const char *, 6> kNames = {"U8", "I8", "I16", "I32", "I64", "F32"};
constexpr std::array<std::size_t, 6> kSizes = {1, 1, 2, 4, 8, 4};

struct Span {
  std::uint64_t begin, end;
  std::string name;
  bool operator<(const Span &o) const { return begin != o.begin ? begin < o.begin : end != o.end ? end < o.end : name < o.name; }
};

Tensor read_tensor(const std::string &where, const Json &entry, const std::uint8_t *data, std::uint64_t size, Span &span) {
  if (!entry.has_exactly({"dtype", "shape", "data_offsets"})) throw ModelFileError(where + ": needs exactly dtype, shape and data_offsets");
  const std::string *dtype = entry.find("dtype")->string();
  const auto at = dtype ? std::find(kNames.begin(), kNames.end(), *dtype) : kNames.end();
  if (at == kNames.end()) throw ModelFileError(where + ": dtype " + entry.find("dtype")->text() + ": allowed are U8, I8, I16, I32, I64, F32");
  const auto index = static_cast<std::size_t>(at - kNames.begin());
  Tensor tensor;
  tensor.dtype = static_cast<Stored>(index);
  tensor.shape = int_list(*entry.find("shape"), where + ": shape", 0, kMaxLength, 8);
  const Shape offsets =
      int_list(*entry.find("data_offsets"), where + ": data_offsets", 0, static_cast<std::int64_t>(size), 2);
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    throw ModelFileError(where + ": data_offsets " + shape_text(offsets) + " must be [begin, end]");
  const std::int64_t bytes = offsets[1] - offsets[0], item = static_cast<std::int64_t>(kSizes[index]);
  const std::int64_t count = bounded_product(tensor.shape, std::numeric_limits<std::int64_t>::max() / 8);
  if (count < 0 || bytes != count * item)
    throw ModelFileError(where + ": " + std::to_string(bytes) + " bytes of data for shape " + shape_text(tensor.shape) + " of " + *dtype);
  if (offsets[0] % item)
    throw ModelFileError(where + ": begins at " + std::to_string(offsets[0]) + ", not on a multiple of " + std::to_string(item));
  span.begin = static_cast<std::uint64_t>(offsets[0]);
  span.end = static_cast<std::uint64_t>(offsets[1]);
  tensor.data = data + span.begin;
  tensor.bytes = static_cast<std::size_t>(bytes);
  return tensor;
}

}  // namespace

const char *stored_name(Stored dtype) { return kNames[static_cast<std::size_t>(dtype)]; }

bool is_name(const std::string &text) {
  return !text.empty() && text.size() <= 200 && std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

std::int64_t bounded_product(const Shape &shape, std::int64_t most) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::int64_t product = 1;
  for (std::int64_t n : shape) {
    if (product > most / n) return -1;
    product *= n;
  }
  return product;
}

Shape int_list(const Json &found, const std::string &where, std::int64_t lo, std::int64_t hi, std::size_t at_most) {
  const JsonArray *items = found.array();
  bool good = items && items->size() <= at_most;
  Shape out;
  if (good) {
    for (const Json &item : *items) {
      const std::int64_t *n = item.integer();
      good = good && n && lo <= *n && *n <= hi;
      if (good) out.push_back(*n);
    }
  }
  if (!good)
    throw ModelFileError(where + " " + found.text() + ": allowed is a list of at most " + std::to_string(at_most) + " integers from " +
                         std::to_string(lo) + " to " + std::to_string(hi));
  return out;
}

Container read_container(const std::uint8_t *data, std::size_t size) {
  if (size < 8) throw ModelFileError(std::to_string(size) + " bytes: too short for the length of the header (8 bytes)");
  std::uint64_t length = 0;
  for (int i = 0; i < 8; i++) length |= static_cast<std::uint64_t>(data[i]) << (8 * i);
  if (length < 2 || length > kMaxHeader || length > size - 8)
    throw ModelFileError("header of " + std::to_string(length) + " bytes in a file of " + std::to_string(size) + ": allowed are 2 to " +
                         std::to_string(kMaxHeader) + ", within the file; is this a model file?");
  std::string_view text(reinterpret_cast<const char *>(data + 8), static_cast<std::size_t>(length));
  const std::string_view unpadded = text.substr(0, text.find_last_not_of(' ') + 1);
  if (text.front() != '{' || unpadded.back() != '}')
    throw ModelFileError("the header must be one JSON object, padded with spaces at most; is this a model file?");
  const Json header = parse_object(text, "header");

  Container out;
  const Json *metadata = header.find("__metadata__");
  if (!metadata || !metadata->object()) throw ModelFileError("__metadata__ must map strings to strings; is this a bitshift model?");
  for (const auto &[key, value] : *metadata->object()) {
    if (!value.string()) throw ModelFileError("__metadata__ must map strings to strings; is this a bitshift model?");
    out.metadata.emplace(key, *value.string());
  }
  const std::uint8_t *body = data + 8 + length;
  const std::uint64_t body_size = size - 8 - length;
  std::vector<Span> spans;
  for (const auto &[name, entry] : *header.object()) {
    if (name == "__metadata__") continue;
    if (!is_name(name)) throw ModelFileError("tensor name " + quoted(name) + ": allowed are 1 to 200 printable ASCII characters");
    spans.push_back({0, 0, name});
    out.tensors.emplace(name, read_tensor("tensor " + quoted(name), entry, body, body_size, spans.back()));
  }
  std::sort(spans.begin(), spans.end());
  std::uint64_t at = 0;
  for (const Span &span : spans) {
    if (span.begin != at)
      throw ModelFileError("tensor " + quoted(span.name) + ": begins at " + std::to_string(span.begin) + ", expected " + std::to_string(at) +
                           ": the data has a hole or an overlap");
    at = span.end;
  }
  if (at != body_size) throw ModelFileError("the tensors cover " + std::to_string(at) + " of " + std::to_string(body_size) + " bytes of data");
  return out;
}

}  // namespace bitshift
