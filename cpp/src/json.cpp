#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <locale>
#include <sstream>

#include "error.h"

namespace bitshift {
namespace {

constexpr int kMaxDepth = 32;

// Any decimal number as a double; infinite if it is too large. Independent of the process's locale.
double parse_double(const char *first, const char *last) {
#if defined(__cpp_lib_to_chars)
  double value = 0;
  if (std::from_chars(first, last, value).ec == std::errc()) return value;
  // Out of range: too large, or so small that it is 0. Both ends are far from the limits of int64 exponents.
#endif
  std::istringstream stream(std::string(first, last));
  stream.imbue(std::locale::classic());
  double parsed = 0;
  stream >> parsed;  // an overflow gives the largest double and sets failbit, an underflow gives 0
  return std::abs(parsed) >= std::numeric_limits<double>::max() ? HUGE_VAL : parsed;
}

class Parser {
 public:
  Parser(std::string_view text, const std::string &where) : at_(text.data()), begin_(at_), end_(at_ + text.size()), where_(where) {}

  Json run() {
    space();
    if (at_ == end_ || *at_ != '{') fail("expected a JSON object");
    Json found = value(1);
    space();
    if (at_ != end_) fail("extra characters after the JSON object");
    return found;
  }

 private:
  [[noreturn]] void fail(const std::string &what) const {
    throw ModelFileError(where_ + ": " + what + " (byte " + std::to_string(at_ - begin_) + ")");
  }

  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) at_++;
  }

  bool take(char c) {
    if (at_ == end_ || *at_ != c) return false;
    at_++;
    return true;
  }

  void need(char c) {
    if (!take(c)) fail(std::string("no valid JSON: expected '") + c + "'");
  }

  Json value(int depth) {
    if (at_ == end_) fail("no valid JSON: it ends too early");
    switch (*at_) {
      case '{': return object(depth);
      case '[': return array(depth);
      case '"': return Json(string());
      case 'n':
        if (end_ - at_ >= 4 && std::string_view(at_, 4) == "null") {
          at_ += 4;
          return Json();
        }
        fail("no valid JSON");
      case 't': case 'f': fail("true and false are not allowed");
      default: return number();
    }
  }

  Json object(int depth) {
    if (depth > kMaxDepth) fail("nested deeper than 32");
    JsonObject members;
    at_++;
    space();
    if (!take('}')) {
      do {
        space();
        if (at_ == end_ || *at_ != '"') fail("no valid JSON: expected a key");
        std::string key = string();
        space();
        need(':');
        space();
        members.emplace_back(std::move(key), value(depth + 1));
        space();
      } while (take(','));
      need('}');
    }
    members.shrink_to_fit();
    std::sort(members.begin(), members.end(), [](const auto &a, const auto &b) { return a.first < b.first; });
    for (std::size_t i = 1; i < members.size(); i++)
      if (members[i].first == members[i - 1].first) fail("key " + quoted(members[i].first) + " occurs twice");
    return Json(std::move(members));
  }

  Json array(int depth) {
    if (depth > kMaxDepth) fail("nested deeper than 32");
    JsonArray items;
    at_++;
    space();
    if (!take(']')) {
      do {
        space();
        items.push_back(value(depth + 1));
        space();
      } while (take(','));
      need(']');
    }
    items.shrink_to_fit();
    return Json(std::move(items));
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; i++, at_++) {
      if (at_ == end_) fail("no valid JSON: it ends in a string");
      const char c = *at_;
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) fail("no valid JSON: bad \\u escape");
      code = code * 16 + static_cast<unsigned>(digit);
    }
    return code;
  }

  // The character of a \u escape whose \u has been read, as UTF-8.
  void unicode(std::string &out) {
    unsigned code = hex4();
    if (code >= 0xD800 && code <= 0xDFFF) {
      if (code >= 0xDC00 || end_ - at_ < 6 || at_[0] != '\\' || at_[1] != 'u') fail("a string holds a lone surrogate");
      at_ += 2;
      const unsigned low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("a string holds a lone surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  std::string string() {
    std::string out;
    at_++;
    for (;;) {
      const char *plain = at_;
      while (at_ != end_ && *at_ != '"' && *at_ != '\\' && static_cast<unsigned char>(*at_) >= 0x20) at_++;
      out.append(plain, at_);
      if (at_ == end_) fail("no valid JSON: it ends in a string");
      if (static_cast<unsigned char>(*at_) < 0x20) fail("no valid JSON: a control character in a string");
      if (*at_++ == '"') return out;
      if (at_ == end_) fail("no valid JSON: it ends in a string");
      switch (*at_++) {
        case '"': out += '"'; break;
        case '\\': out += '\\'; break;
        case '/': out += '/'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': unicode(out); break;
        default: fail("no valid JSON: unknown escape in a string");
      }
    }
  }

  bool digit() const { return at_ != end_ && *at_ >= '0' && *at_ <= '9'; }

  void digits() {
    if (!digit()) fail("no valid JSON: expected a digit");
    while (digit()) at_++;
  }

  Json number() {
    const char *first = at_;
    take('-');
    if (!take('0')) digits();
    bool real = false;
    if (at_ != end_ && *at_ == '.') {
      at_++;
      digits();
      real = true;
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      at_++;
      if (!take('+')) take('-');
      digits();
      real = true;
    }
    if (real) {
      const double found = parse_double(first, at_);
      if (!std::isfinite(found)) fail("a number is not finite");
      return Json(found);
    }
    std::int64_t found = 0;
    if (at_ - first > 20 || std::from_chars(first, at_, found).ec != std::errc()) fail("an integer does not fit 64 bits");
    return Json(found);
  }

  const char *at_, *begin_, *end_;
  const std::string &where_;
};

}  // namespace

const Json *Json::find(std::string_view key) const {
  const JsonObject *members = object();
  if (!members) return nullptr;
  auto found = std::lower_bound(members->begin(), members->end(), key, [](const auto &m, std::string_view k) { return m.first < k; });
  return found != members->end() && found->first == key ? &found->second : nullptr;
}

bool Json::has_exactly(std::initializer_list<std::string_view> keys) const {
  const JsonObject *members = object();
  if (!members || members->size() != keys.size()) return false;
  return std::all_of(keys.begin(), keys.end(), [this](std::string_view k) { return find(k) != nullptr; });
}

std::string Json::text() const {
  if (integer()) return std::to_string(*integer());
  if (real()) return std::to_string(*real());
  if (string()) return quoted(*string());
  if (object()) return "an object";
  if (!array()) return "null";
  std::string out = "[";
  for (std::size_t i = 0; i < array()->size(); i++) {
    if (out.size() > 80) return out + ", ...]";
    out += (i ? ", " : "") + (*array())[i].text();
  }
  return out + "]";
}

bool is_utf8(std::string_view text) {
  const auto *s = reinterpret_cast<const unsigned char *>(text.data());
  const std::size_t n = text.size();
  for (std::size_t i = 0; i < n;) {
    const unsigned char c = s[i];
    if (c < 0x80) {
      i++;
      continue;
    }
    // Length and the smallest character that needs it; C0, C1, F5.. and stray followers are refused by the ranges.
    const std::size_t more = c >= 0xC2 && c <= 0xDF ? 1 : c >= 0xE0 && c <= 0xEF ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
    if (more == 0 || n - i <= more) return false;
    const unsigned char next = s[i + 1];
    if ((c == 0xE0 && next < 0xA0) || (c == 0xED && next > 0x9F) || (c == 0xF0 && next < 0x90) || (c == 0xF4 && next > 0x8F)) return false;
    for (std::size_t k = 1; k <= more; k++)
      if (s[i + k] < 0x80 || s[i + k] > 0xBF) return false;
    i += more + 1;
  }
  return true;
}

Json parse_object(std::string_view text, const std::string &where) {
  if (!is_utf8(text)) throw ModelFileError(where + ": not UTF-8");
  return Parser(text, where).run();
}

}  // namespace bitshift
