#include "kernelcache.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "fork_mutex.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/stat.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#ifndef BITSHIFT_VERSION
#define BITSHIFT_VERSION "unknown"
#endif

namespace bitshift {
namespace {

constexpr char kHeader[] = "bitshift kernels 1";
constexpr std::size_t kMostBytes = std::size_t{4} << 20;

using Choices = std::map<std::string, std::string>;

struct Cache {
  ForkMutex mutex;
  std::string path;  // the file that `choices` were read from
  Choices choices;
};

// Never destroyed: threads may outlive the end of main.
Cache &cache() {
  static Cache *const one = new Cache;
  return *one;
}

// What a measurement depends on beside the layer.
std::string machine() {
  std::string name = "processor";
#if defined(__x86_64__)
  unsigned words[12] = {};
  if (__get_cpuid_max(0x80000000u, nullptr) >= 0x80000004u)
    for (unsigned i = 0; i < 3; i++) __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
  char text[sizeof words + 1] = {};
  std::memcpy(text, words, sizeof words);
  name = text;
#elif defined(__linux__)
  // The lines that tell one ARM core from another.
  if (std::FILE *file = std::fopen("/proc/cpuinfo", "r")) {
    char line[256];
    for (int seen = 0; seen < 2 && std::fgets(line, sizeof line, file);)
      if (!std::strncmp(line, "CPU implementer", 15) || !std::strncmp(line, "CPU part", 8)) {
        name += std::strchr(line, ':') ? std::strchr(line, ':') + 1 : "";
        seen++;
      }
    std::fclose(file);
  }
#endif
  for (char &c : name)
    if (c < ' ' || c > '~') c = ' ';
  return BITSHIFT_VERSION " " + name;
}

std::string key_of(const std::string &layer) {
  static const std::string here = machine();
  return here + " | " + layer;
}

std::string directory() {
  if (const char *chosen = std::getenv("BITSHIFT_KERNEL_CACHE"); chosen && *chosen) return chosen;
  if (const char *found = std::getenv("XDG_CACHE_HOME"); found && *found) return std::string(found) + "/bitshift";
  if (const char *home = std::getenv("HOME"); home && *home) return std::string(home) + "/.cache/bitshift";
  return "";
}

std::string file_path() {
  const std::string found = directory();
  return found.empty() ? found : found + "/kernels.txt";
}

// The lines "key <tab> kernel" of a file that begins with the header; others are skipped.
void read(const std::string &path, Choices &into) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) return;
  std::string text;
  char block[8192];
  for (std::size_t n; text.size() < kMostBytes && (n = std::fread(block, 1, sizeof block, file.get())) > 0;) text.append(block, n);
  if (text.compare(0, sizeof kHeader, std::string(kHeader) + "\n") != 0) return;
  for (std::size_t at = sizeof kHeader, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::size_t tab = text.find('\t', at);
    if (tab < end) into.emplace(text.substr(at, tab - at), text.substr(tab + 1, end - tab - 1));
  }
}

void make_directories(const std::string &path) {
#if defined(__unix__) || defined(__APPLE__)
  for (std::size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) mkdir(path.substr(0, at).c_str(), 0777);
  mkdir(path.c_str(), 0777);
#else
  (void)path;
#endif
}

}  // namespace

std::string cached_kernel(const std::string &layer) {
  Cache &c = cache();
  const std::lock_guard<ForkMutex> lock(c.mutex);
  if (const std::string path = file_path(); path != c.path) {
    c.path = path;
    c.choices.clear();
    read(path, c.choices);
  }
  const auto found = c.choices.find(key_of(layer));
  return found == c.choices.end() ? "" : found->second;
}

void remember_kernel(const std::string &layer, const std::string &kernel) {
  Cache &c = cache();
  const std::lock_guard<ForkMutex> lock(c.mutex);
  c.choices[key_of(layer)] = kernel;
}

void save_kernels() {
  Cache &c = cache();
  const std::lock_guard<ForkMutex> lock(c.mutex);
  const std::string path = file_path();
  if (path.empty()) return;
  Choices all = c.choices;
  read(path, all);  // what others know beside it
  make_directories(directory());
  // Readers see the old file or the new one, whole.
  static std::atomic<unsigned> serial{0};
  std::string part = path + ".part" + std::to_string(serial++);
#if defined(__unix__) || defined(__APPLE__)
  part += "." + std::to_string(getpid());
#endif
  std::FILE *file = std::fopen(part.c_str(), "wb");
  if (!file) return;
  bool good = std::fprintf(file, "%s\n", kHeader) > 0;
  for (const auto &[key, kernel] : all) good = good && std::fprintf(file, "%s\t%s\n", key.c_str(), kernel.c_str()) > 0;
  good = std::fclose(file) == 0 && good;
  if (!good || std::rename(part.c_str(), path.c_str()) != 0) std::remove(part.c_str());
}

}  // namespace bitshift
