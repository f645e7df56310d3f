// What an integer node can compute: the proof that no kernel overflows. The twin of core/bounds.py.
#ifndef BITSHIFT_SRC_BOUNDS_H
#define BITSHIFT_SRC_BOUNDS_H

#include <limits>

#include "graph.h"

namespace bitshift {

// Smallest and largest integer of a value; both 0 and meaningless for f32.
struct Range {
  std::int64_t lo = 0, hi = 0;
};

// A magnitude that stays at the largest number once it has reached it. Every bound that matters is refused above 2^63-1,
// so a saturated one is always refused.
class Magnitude {
 public:
  static constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  constexpr Magnitude(std::uint64_t v = 0) : v_(v) {}
  static constexpr Magnitude of(std::int64_t v) { return Magnitude(v < 0 ? 0 - static_cast<std::uint64_t>(v) : static_cast<std::uint64_t>(v)); }
  Magnitude operator+(Magnitude o) const { return v_ > kMost - o.v_ ? kMost : v_ + o.v_; }
  Magnitude operator*(Magnitude o) const { return o.v_ && v_ > kMost / o.v_ ? kMost : v_ * o.v_; }
  Magnitude shifted(int by) const { return *this * Magnitude(std::uint64_t{1} << by); }
  bool operator<(Magnitude o) const { return v_ < o.v_; }
  std::uint64_t value() const { return v_; }
  bool exceeds_int32() const { return v_ > 2147483647u; }
  bool exceeds_int64() const { return v_ > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()); }
  std::string text() const { return v_ == kMost ? "more than 2^64" : std::to_string(v_); }

 private:
  std::uint64_t v_;
};

// `acc`: largest magnitude of any partial sum of the accumulator, in channel `channel`; `total`: of the evaluation of
// rule 4; `raw`: range before saturation, set when neither exceeds its type (it could not be computed otherwise).
struct Bound {
  Range range;
  bool has_raw = false;
  Range raw;
  Magnitude acc, total;
  std::int64_t channel = -1;

  bool fits32() const { return !acc.exceeds_int32() && !total.exceeds_int32(); }
  bool refused() const { return acc.exceeds_int32() || total.exceeds_int64(); }
};

// The range of each input of the graph, in order: that of its type, cut to the rows of the embeddings that read it, directly or
// through ops that only order its elements anew.
std::vector<Range> input_ranges(const Graph &graph);

// The bound of every node. Throws ModelFileError if an accumulator or a wide value exceeds int32, or rule 4 int64.
std::vector<Bound> check_bounds(const Graph &graph);

// Saturation of `raw` to lo..hi.
Range clipped(Range raw, std::int64_t lo, std::int64_t hi);

}  // namespace bitshift
#endif
