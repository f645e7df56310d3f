#include "file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "error.h"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define BITSHIFT_MMAP 1
#endif

namespace bitshift {
namespace {

constexpr std::size_t kApart = std::size_t{1} << 16;  // smaller parts are not worth a mapping of their own

[[noreturn]] void refuse_file(const std::string &path) { throw IoError(path + ": " + std::strerror(errno)); }

std::vector<std::uint8_t> read_all(const std::string &path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) refuse_file(path);
  std::vector<std::uint8_t> data;
  std::vector<std::uint8_t> block(std::size_t{1} << 16);
  std::size_t n;
  while ((n = std::fread(block.data(), 1, block.size(), file.get())) > 0)
    data.insert(data.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(n));
  if (std::ferror(file.get())) refuse_file(path);
  return data;
}

#ifdef BITSHIFT_MMAP
// nullptr for what is no regular file, and for an empty one: those are read.
void *map_file(const std::string &path, std::size_t &size) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse_file(path);
  struct stat info {};
  void *mapped = MAP_FAILED;
  if (::fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
    size = static_cast<std::size_t>(info.st_size);
    mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  }
  ::close(file);
  return mapped == MAP_FAILED ? nullptr : mapped;
}
#endif

}  // namespace

ModelBytes::ModelBytes(const std::string &path) {
#ifdef BITSHIFT_MMAP
  mapped_ = map_file(path, size_);
  data_ = static_cast<const std::uint8_t *>(mapped_);
#endif
  if (mapped_) return;
  copy_ = read_all(path);
  data_ = copy_.data();
  size_ = copy_.size();
}

ModelBytes::~ModelBytes() {
#ifdef BITSHIFT_MMAP
  if (mapped_) ::munmap(mapped_, size_);
#endif
}

void ModelBytes::apart([[maybe_unused]] const std::uint8_t *from, [[maybe_unused]] std::size_t bytes) const {
#ifdef BITSHIFT_MMAP
  if (!mapped_ || bytes < kApart) return;
  // A page fault brings in all pages around it that the system holds as one folio, up to 2 MB of them, but none of another
  // mapping; and where advice changes, a mapping ends.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (static_cast<std::size_t>(from - data_) + page - 1) / page * page, end = (static_cast<std::size_t>(from - data_) + bytes) / page * page;
  (void)::madvise(static_cast<std::uint8_t *>(mapped_) + begin, end - begin, MADV_SEQUENTIAL);
#endif
}

void ModelBytes::release([[maybe_unused]] const std::uint8_t *from, [[maybe_unused]] std::size_t bytes) const {
#ifdef BITSHIFT_MMAP
  if (!mapped_ || !bytes) return;
  // Whole pages around the bytes: what a neighbour shares of them is read again at no great cost.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(from - data_) / page * page;
  (void)::madvise(static_cast<std::uint8_t *>(mapped_) + offset, static_cast<std::size_t>(from - data_) + bytes - offset, MADV_DONTNEED);
#endif
}

}  // namespace bitshift
