// The table of micro-kernels of a set whose tile_sums<Blocks>(a, run, groups) takes any tile. Included by micro_<isa>.h behind it.

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

template <int Run, int Groups, int Blocks>
void micro_tile(const MicroArgs &a) {
  tile_sums<Blocks>(a, Run, Groups);
}

template <int Groups, int Blocks>
constexpr MicroKernel kMicro[kRun] = {micro_tile<1, Groups, Blocks>, micro_tile<2, Groups, Blocks>, micro_tile<3, Groups, Blocks>,
                                      micro_tile<4, Groups, Blocks>, micro_tile<5, Groups, Blocks>, micro_tile<6, Groups, Blocks>,
                                      micro_tile<7, Groups, Blocks>};

inline MicroKernel micro_kernel(int run, int groups, int blocks) {
  if (blocks == 1) return groups == 1 ? kMicro<1, 1>[run - 1] : kMicro<2, 1>[run - 1];
  return groups == 1 ? kMicro<1, 2>[run - 1] : kMicro<2, 2>[run - 1];
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
