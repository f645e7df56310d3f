// JSON as the model file allows it: the twin of core/strictjson.py.
#ifndef BITSHIFT_SRC_JSON_H
#define BITSHIFT_SRC_JSON_H

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace bitshift {

class Json;
using JsonArray = std::vector<Json>;
using JsonObject = std::vector<std::pair<std::string, Json>>;  // sorted by key

// One value, 16 bytes, so that a hostile header cannot cost much more memory than it has bytes.
class Json {
 public:
  Json() = default;
  explicit Json(std::int64_t v) : data_(v) {}
  explicit Json(double v) : data_(v) {}
  explicit Json(std::string v) : data_(std::make_unique<std::string>(std::move(v))) {}
  explicit Json(JsonArray v) : data_(std::make_unique<JsonArray>(std::move(v))) {}
  explicit Json(JsonObject v) : data_(std::make_unique<JsonObject>(std::move(v))) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
  // nullptr if the value is of another kind.
  const std::int64_t *integer() const { return std::get_if<std::int64_t>(&data_); }
  const double *real() const { return std::get_if<double>(&data_); }
  const std::string *string() const { return pointee<std::string>(); }
  const JsonArray *array() const { return pointee<JsonArray>(); }
  const JsonObject *object() const { return pointee<JsonObject>(); }

  // The member `key` of an object, nullptr if there is none.
  const Json *find(std::string_view key) const;
  // Whether this is an object with exactly these keys.
  bool has_exactly(std::initializer_list<std::string_view> keys) const;
  // What was found, shortened, for messages.
  std::string text() const;

 private:
  template <class T>
  const T *pointee() const {
    auto p = std::get_if<std::unique_ptr<T>>(&data_);
    return p ? p->get() : nullptr;
  }
  std::variant<std::monostate, std::int64_t, double, std::unique_ptr<std::string>, std::unique_ptr<JsonArray>,
               std::unique_ptr<JsonObject>>
      data_;
};

// The object in `text`, which must be UTF-8. Refuses repeated keys, true and false, NaN and infinities, integers beyond 64
// bits, lone surrogates, and more than 32 levels of nesting. Throws ModelFileError whose message begins with `where`.
Json parse_object(std::string_view text, const std::string &where);

bool is_utf8(std::string_view text);

}  // namespace bitshift
#endif
