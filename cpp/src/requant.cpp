#include "requant.h"

#include <algorithm>

namespace bitshift {
namespace {

constexpr std::size_t kPadded = 64;  // kernels read whole vectors of channels

// Modulo 2^32: what the kernels add wraps, and the true result fits.
std::int32_t wrapped(std::uint64_t v) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(v)); }

}  // namespace

void FoldedRequant::point() {
  view.mult = mult.data();
  view.offset32 = offset32.data();
  view.shift = shift.data();
  view.res_shift = res_shift.data();
  view.correction = correction.data();
  view.offset64 = offset64.data();
}

FoldedRequant fold_requant(const Graph &graph, const Node &node, const Bound &bound, const std::vector<std::int64_t> &level_sums,
                           int in_zero, int res_zero, int out_zero) {
  const std::size_t channels = level_sums.size(), padded = (channels + kPadded - 1) / kPadded * kPadded;
  const RequantVectors v = requant_vectors(graph, node, static_cast<std::int64_t>(channels));
  FoldedRequant q;
  q.view.narrow = bound.fits32();
  q.view.unit = std::all_of(v.mult.begin(), v.mult.end(), [](std::int32_t m) { return m == 1; });
  q.view.residual = node.inputs.size() == 2;
  q.view.out_item = static_cast<int>(bsk_dtype_size(graph.out(node).type.dtype()));
  q.view.out_zero = static_cast<std::uint8_t>(out_zero);
  q.view.lo = static_cast<std::int32_t>(node.attrs.lo);
  q.view.hi = static_cast<std::int32_t>(node.attrs.hi);
  if (q.view.residual) q.view.res_item = static_cast<int>(bsk_dtype_size(graph.in(node, 1).type.dtype()));
  if (q.view.res_item == 1 && graph.in(node, node.inputs.size() - 1).type.is_signed && !res_zero) q.view.res_item = -1;
  for (std::vector<std::int32_t> *array : {&q.mult, &q.offset32, &q.shift, &q.res_shift, &q.correction}) array->assign(padded, 0);
  q.offset64.assign(padded, 0);
  // In 32 bits a shift of 32 or more does what one of 31 does: every value there has a magnitude under 2^31, and a residual
  // that may be shifted so far is always 0, which its even zero keeps.
  const int most = q.view.narrow ? 31 : 62;
  for (std::size_t c = 0; c < channels; c++) {
    q.mult[c] = v.mult[c];
    q.shift[c] = std::min<int>(v.shift[c], most);
    q.res_shift[c] = std::min<int>(v.res_shift[c], most);
    const std::uint64_t correction = static_cast<std::uint64_t>(level_sums[c]) * static_cast<std::uint64_t>(in_zero);
    const std::uint64_t biased = static_cast<std::uint64_t>(v.offset[c]) - (static_cast<std::uint64_t>(res_zero) << q.res_shift[c]);
    q.correction[c] = wrapped(correction);
    q.offset32[c] = wrapped(biased - correction * static_cast<std::uint64_t>(v.mult[c]));
    q.offset64[c] = static_cast<std::int64_t>(biased);
  }
  q.point();
  return q;
}

}  // namespace bitshift
