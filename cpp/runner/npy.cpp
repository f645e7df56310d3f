#include "npy.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

namespace runner {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicBytes = 6;

using File = std::unique_ptr<std::FILE, int (*)(std::FILE *)>;

File open_file(const std::string &path, const char *mode) {
  File file(std::fopen(path.c_str(), mode), std::fclose);
  if (!file) throw Complaint(path + ": " + std::strerror(errno));
  return file;
}

// The header of an .npy file: a Python dict with a string, a bool and a tuple of integers.
class Header {
 public:
  Header(const std::string &path, const char *begin, const char *end) : path_(path), at_(begin), end_(end) {}

  // Reads all three keys, each once, and nothing else.
  void read(Array &array, bool &fortran) {
    bool descr = false, order = false, shape = false;
    need('{');
    while (!take('}')) {
      const std::string key = string();
      need(':');
      if (key == "descr" && !descr) {
        array.descr = string();
        descr = true;
      } else if (key == "fortran_order" && !order) {
        fortran = word("True");
        if (!fortran && !word("False")) fail();
        order = true;
      } else if (key == "shape" && !shape) {
        array.shape = tuple();
        shape = true;
      } else {
        fail();
      }
      if (!take(',')) {
        need('}');
        break;
      }
    }
    space();
    if (!descr || !order || !shape || at_ != end_) fail();
  }

 private:
  [[noreturn]] void fail() const { throw Complaint(path_ + ": the header is not that of an .npy file with one plain array"); }

  void space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n')) at_++;
  }

  bool take(char c) {
    space();
    if (at_ == end_ || *at_ != c) return false;
    at_++;
    return true;
  }

  void need(char c) {
    if (!take(c)) fail();
  }

  bool word(const char *text) {
    space();
    const std::size_t n = std::strlen(text);
    if (static_cast<std::size_t>(end_ - at_) < n || std::memcmp(at_, text, n) != 0) return false;
    at_ += n;
    return true;
  }

  std::string string() {
    space();
    if (at_ == end_ || (*at_ != '\'' && *at_ != '"')) fail();
    const char quote = *at_++, *const begin = at_;
    while (at_ != end_ && *at_ != quote) at_++;
    if (at_ == end_) fail();
    return std::string(begin, at_++);
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> out;
    need('(');
    while (!take(')')) {
      space();
      std::int64_t n = 0;
      const char *const begin = at_;
      while (at_ != end_ && *at_ >= '0' && *at_ <= '9' && n < std::numeric_limits<std::int64_t>::max() / 16) n = n * 10 + (*at_++ - '0');
      if (at_ == begin) fail();
      out.push_back(n);
      if (!take(',')) {
        need(')');
        break;
      }
    }
    return out;
  }

  const std::string &path_;
  const char *at_, *end_;
};

std::size_t item_bytes(const std::string &path, const std::string &descr) {
  if (descr.size() == 3 && (descr[0] == '<' || descr[0] == '|') && std::strchr("iufb", descr[1]) && std::strchr("1248", descr[2]))
    return static_cast<std::size_t>(descr[2] - '0');
  throw Complaint(path + ": dtype " + descr + " is not read here; save the array as float32 or as little-endian integers");
}

}  // namespace

std::string tuple_text(const std::vector<std::int64_t> &shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); i++) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + (shape.size() == 1 ? ",)" : ")");
}

std::vector<std::uint8_t> read_file(const std::string &path) {
  const File file = open_file(path, "rb");
  std::vector<std::uint8_t> data, block(std::size_t{1} << 20);
  std::size_t n;
  while ((n = std::fread(block.data(), 1, block.size(), file.get())) > 0)
    data.insert(data.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(n));
  if (std::ferror(file.get())) throw Complaint(path + ": cannot be read");
  return data;
}

void write_file(const std::string &path, const std::vector<std::uint8_t> &data) {
  File file = open_file(path, "wb");
  const bool written = std::fwrite(data.data(), 1, data.size(), file.get()) == data.size();
  // A full disk shows at the latest when the file is closed.
  if (std::fclose(file.release()) != 0 || !written) throw Complaint(path + ": cannot be written: " + std::strerror(errno));
}

bool is_npy(const std::string &path) { return path.size() > 4 && path.compare(path.size() - 4, 4, ".npy") == 0; }

Array read_npy(const std::string &path) {
  const std::vector<std::uint8_t> file = read_file(path);
  if (file.size() < kMagicBytes + 4 || std::memcmp(file.data(), kMagic, kMagicBytes) != 0) throw Complaint(path + ": is no .npy file");
  const int version = file[kMagicBytes];
  if (version < 1 || version > 3) throw Complaint(path + ": .npy version " + std::to_string(version) + " is not read here; 1 to 3 are");
  const std::size_t width = version == 1 ? 2 : 4, begin = kMagicBytes + 2 + width;
  std::size_t length = 0;
  if (file.size() < begin) throw Complaint(path + ": ends in its header");
  for (std::size_t i = 0; i < width; i++) length |= static_cast<std::size_t>(file[kMagicBytes + 2 + i]) << (8 * i);
  if (length > file.size() - begin) throw Complaint(path + ": ends in its header");

  Array array;
  bool fortran = false;
  const char *text = reinterpret_cast<const char *>(file.data()) + begin;
  Header(path, text, text + length).read(array, fortran);
  if (fortran && array.shape.size() > 1)
    throw Complaint(path + ": is in Fortran order; save np.ascontiguousarray(x) instead");
  const std::size_t item = item_bytes(path, array.descr), held = file.size() - begin - length;
  std::size_t count = 1;
  for (std::int64_t n : array.shape) {
    // More than the file can hold is refused below, without an overflow here; an axis of 0 makes it 0 for good.
    const auto axis = static_cast<std::size_t>(n);
    count = axis && count > std::numeric_limits<std::size_t>::max() / 16 / axis ? std::numeric_limits<std::size_t>::max() / 16 : count * axis;
  }
  if (count * item != held)
    throw Complaint(path + ": holds " + std::to_string(held) + " bytes of data; shape " + tuple_text(array.shape) + " of " + array.descr + " needs " +
                    std::to_string(count * item));
  array.data.assign(file.end() - static_cast<std::ptrdiff_t>(held), file.end());
  return array;
}

void write_npy(const std::string &path, const Array &array) {
  std::string header = "{'descr': '" + array.descr + "', 'fortran_order': False, 'shape': " + tuple_text(array.shape) + ", }";
  // The data begins on a multiple of 64, a newline before it.
  header.append(63 - (kMagicBytes + 4 + header.size()) % 64, ' ');
  header += '\n';
  std::vector<std::uint8_t> file(kMagic, kMagic + kMagicBytes);
  file.insert(file.end(), {1, 0, static_cast<std::uint8_t>(header.size() & 255), static_cast<std::uint8_t>(header.size() >> 8)});
  file.insert(file.end(), header.begin(), header.end());
  file.insert(file.end(), array.data.begin(), array.data.end());
  write_file(path, file);
}

}  // namespace runner
