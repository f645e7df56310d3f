#include "settings.h"

#include <cerrno>
#include <cstdlib>

#include "error.h"
#include "pool.h"

namespace bitshift {
namespace {

constexpr int kMaxThreads = 1024;

std::string environment(const char *name) {
  const char *found = std::getenv(name);
  return found ? found : "";
}

// The option, else the variable; `where` says which, for messages.
std::string chosen(const std::string &option, const char *variable, const char *name, std::string &where) {
  where = option.empty() ? variable : name;
  return option.empty() ? environment(variable) : option;
}

// A whole number of `variable` from lo to hi, `fallback` if it is not set.
long number(const char *variable, long lo, long hi, long fallback) {
  const std::string text = environment(variable);
  if (text.empty()) return fallback;
  char *end = nullptr;
  errno = 0;
  const long found = std::strtol(text.c_str(), &end, 10);
  if (errno || *end || found < lo || found > hi)
    throw UsageError(std::string(variable) + " is " + quoted(text) + "; allowed: " + std::to_string(lo) + " to " + std::to_string(hi));
  return found;
}

int threads_of(int option) {
  if (option < 0 || option > kMaxThreads)
    throw UsageError("threads is " + std::to_string(option) + "; allowed: 1 to " + std::to_string(kMaxThreads) + ", or 0 for the default");
  return option ? option : static_cast<int>(number("BITSHIFT_THREADS", 1, kMaxThreads, processor_count()));
}

const simd::Isa *isa_of(const std::string &option) {
  std::string where, here = "portable";
  const std::string text = chosen(option, "BITSHIFT_ISA", "isa", where);
  const std::vector<simd::Isa> &isas = simd::isas();
  if (text == "portable") return nullptr;
  if (text.empty() || text == "auto") return isas.empty() ? nullptr : &isas.front();
  for (const simd::Isa &isa : isas) {
    if (text == isa.name) return &isa;
    here += std::string(", ") + isa.name;
  }
  throw UsageError(where + " is " + quoted(text) + "; allowed: auto, avx512, avx512vl, avxvnni, avx2, neon, portable, as far as the processor goes: this one has " + here);
}

Tune tune_of(const std::string &option) {
  std::string where;
  const std::string text = chosen(option, "BITSHIFT_TUNE", "tune", where);
  if (text.empty() || text == "auto") return Tune::automatic;
  if (text == "off") return Tune::off;
  if (text == "force") return Tune::force;
  throw UsageError(where + " is " + quoted(text) + "; allowed: auto, off, force");
}

}  // namespace

Settings resolve(const Options &options) {
  Settings out{threads_of(options.threads), isa_of(options.isa), tune_of(options.tune)};
  out.share_from = static_cast<double>(number("BITSHIFT_SHARE_FROM", 0, 1000000000, static_cast<long>(out.share_from)));
  return out;
}

}  // namespace bitshift
