// Which kernel computes a layer: measured when a model is loaded, remembered in this process and on disk.
#ifndef BITSHIFT_SRC_TUNE_H
#define BITSHIFT_SRC_TUNE_H

#include <string>

#include "kernelcache.h"
#include "settings.h"

namespace bitshift {

// Numbers of rows that share a kernel, which must serve all of them, and the number it is measured with.
struct RowRange {
  std::int64_t least, most, tried;
};

// The choices of one load. Every candidate gives the same integers, so that a wrong choice costs time only.
class Tuner {
 public:
  explicit Tuner(const Settings &settings) : settings_(settings) {}
  ~Tuner();  // saves what has been measured
  Tuner(const Tuner &) = delete;
  Tuner &operator=(const Tuner &) = delete;

  // Null where none of the set's kernels can.
  const simd::ConvKernel *choose(const simd::ConvLayer &layer);
  const simd::LinearKernel *choose(const simd::LinearLayer &layer, RowRange rows);
  const simd::FloatKernel *choose(const simd::FloatLayer &layer, RowRange rows);

 private:
  template <class Kernel>
  std::string key_of(const std::vector<const Kernel *> &candidates, const std::string &layer) const;
  template <class Kernel>
  bool settled(const std::vector<const Kernel *> &candidates, const std::string &layer, const Kernel *&choice) const;
  template <class Kernel, class Scratch, class Run>
  const Kernel *fastest(const std::vector<const Kernel *> &candidates, const std::string &layer, Scratch scratch, Run run);

  const Settings &settings_;
  bool measured_ = false;
};

}  // namespace bitshift
#endif
