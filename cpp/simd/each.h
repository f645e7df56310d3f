// Loops whose counter is a constant, and the way from a width known at run time to one known to the compiler. In the namespace of an
// instruction set: included by its headers behind BITSHIFT_ISA_NAMESPACE.
#ifndef BITSHIFT_SIMD_EACH_H
#define BITSHIFT_SIMD_EACH_H

#include "common.h"

namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE {

template <int Value>
struct Int {
  static constexpr int value = Value;
};

// f(Int<0>()), ... f(Int<End - 1>()).
template <int End, int Begin = 0, class F>
BITSHIFT_INLINE void each(F f) {
  if constexpr (Begin < End) {
    f(Int<Begin>());
    each<End, Begin + 1>(f);
  }
}

// f(Int<bits>()) for the width of a code, 1 to 8.
template <class F>
BITSHIFT_INLINE void with_width(int bits, F f) {
  switch (bits) {
    case 1: return f(Int<1>());
    case 2: return f(Int<2>());
    case 3: return f(Int<3>());
    case 4: return f(Int<4>());
    case 5: return f(Int<5>());
    case 6: return f(Int<6>());
    case 7: return f(Int<7>());
    default: return f(Int<8>());
  }
}

}  // namespace bitshift::simd::BITSHIFT_ISA_NAMESPACE
#endif
