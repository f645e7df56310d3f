// The ways in which the engine says no.
#ifndef BITSHIFT_SRC_ERROR_H
#define BITSHIFT_SRC_ERROR_H

#include <stdexcept>
#include <string>

namespace bitshift {

// A file that breaks docs/model-file.md, or a graph that breaks a rule of its ops or bounds.
struct ModelFileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A call that does not fit a good model: wrong sizes, values outside of a type, limits.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file that cannot be opened or read.
struct IoError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The first 80 characters of a name from a file, quoted, with anything unprintable replaced.
inline std::string quoted(const std::string &text) {
  std::string out = "'";
  for (std::size_t i = 0; i < text.size() && i < 80; i++) out += text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
  return out + "'";
}

}  // namespace bitshift
#endif
