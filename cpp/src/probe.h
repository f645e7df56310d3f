// What this processor could do at best, for the share of the roofline in `bitshift bench`: measured, not looked up.
#ifndef BITSHIFT_SRC_PROBE_H
#define BITSHIFT_SRC_PROBE_H

#include <cstddef>
#include <string>

namespace bitshift {

// Operations per second (a product and its addition are two) of 8-bit dot products in registers, on `threads` threads that
// are pinned to the processors of the calling thread's affinity, in order; the best of several short runs within about
// `seconds`. `isa` is avx512, avx512vl, avxvnni, avx2 or neon. 0: this processor or this build lacks it.
double probe_dot(const std::string &isa, int threads, double seconds);

// Bytes per second that `threads` threads read from one buffer of `bytes` bytes, cut in equal parts, again and again.
double probe_read(std::size_t bytes, int threads, double seconds);

}  // namespace bitshift
#endif
