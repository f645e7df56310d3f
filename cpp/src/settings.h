// How models run on this machine: what the caller asked for, else the environment, else what is here.
#ifndef BITSHIFT_SRC_SETTINGS_H
#define BITSHIFT_SRC_SETTINGS_H

#include <cstdint>
#include <string>
#include <vector>

#include "../simd/isa.h"

namespace bitshift {

// What a model may take, and how it runs. Empty and 0: the environment's word (BITSHIFT_THREADS, BITSHIFT_ISA, BITSHIFT_TUNE),
// else the default.
struct Options {
  std::uint64_t memory = std::uint64_t{2} << 30;  // bytes of inputs, activations and scratch memory of one sample
  std::uint64_t operations = std::uint64_t{1} << 50;
  int threads = 0;   // default: the processors in the affinity mask
  std::string isa;   // "avx512", "avx512vl", "avxvnni", "avx2", "neon" or "portable"; default "auto": the best that the processor has
  std::string tune;  // "auto": measure what the cache does not know, "force": measure all, "off": the likely best
};

enum class Tune { off, automatic, force };

struct Settings {
  int threads = 1;
  const simd::Isa *isa = nullptr;  // null: portable
  Tune tune = Tune::automatic;
  // Operations of a run from which on threads share it: under that, waking them costs more than they save.
  double share_from = 2e6;

  const char *isa_name() const { return isa ? isa->name : "portable"; }
};

// Throws UsageError for a word that is not allowed, or an instruction set that this processor lacks.
Settings resolve(const Options &options);

}  // namespace bitshift
#endif
