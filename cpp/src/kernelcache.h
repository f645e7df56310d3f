// Choices of kernels that outlive a process: one text file in $BITSHIFT_KERNEL_CACHE, else in the user's cache directory.
#ifndef BITSHIFT_SRC_KERNELCACHE_H
#define BITSHIFT_SRC_KERNELCACHE_H

#include <string>

namespace bitshift {

// The name that was stored for `layer` on this machine with this engine; empty if none was. Safe from any number of threads.
std::string cached_kernel(const std::string &layer);
void remember_kernel(const std::string &layer, const std::string &kernel);
// Writes what this process knows beside what others have written meanwhile. A file that is damaged or cannot be written is
// as good as none.
void save_kernels();

}  // namespace bitshift
#endif
