// Float products with AVX-512: codes to indices of vpermps.
#define BITSHIFT_ISA_NAMESPACE avx512
#include "decode_avx512.h"

namespace bitshift::simd::avx512 {
namespace {

struct FloatOps {
  static constexpr int kRows = 8;
  static constexpr bool kInRegisters = true;
  using F = __m512;
  static F zero() { return _mm512_setzero_ps(); }
  static F load(const float *p) { return _mm512_loadu_ps(p); }
  static void store(float *p, F v) { _mm512_storeu_ps(p, v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F madd(F a, F b, F sum) { return _mm512_fmadd_ps(a, b, sum); }
  static F madd(F a, const float *b, F sum) { return _mm512_fmadd_ps(a, _mm512_set1_ps(*b), sum); }

  template <bool Zeros>
  static F add_exponent(F addend, const std::uint32_t *x, const std::uint32_t *mask, F sum) {
    const __m512i a = _mm512_castps_si512(addend), add = _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(*mask)));
    const __m512i bits = _mm512_set1_epi32(static_cast<int>(*x));
    __m512i product;
    if constexpr (Zeros) product = _mm512_maskz_add_epi32(_mm512_testn_epi32_mask(a, _mm512_set1_epi32(1)), bits, add);
    else product = _mm512_add_epi32(bits, add);
    return _mm512_add_ps(sum, _mm512_castsi512_ps(product));
  }

  // Codes stand in the bytes of a vector as code_indices leaves them; input j's are brought to the low bits of every lane, where
  // vpermps reads 4 bits and vpermt2ps 5. `first_bit` is where a code begins in its byte; step 6 of 3 bits has its high bit lowest.
  template <int Bits>
  struct Levels {
    static_assert(Bits < 7);
    static constexpr int kTables = Bits == 3 ? 2 : Bits == 5 ? 2 : Bits == 6 ? 4 : 1;
    __m512 table[kTables];

    explicit Levels(const float *levels) {
      alignas(64) float lanes[16];
      for (int t = 0; t < kTables; t++) {
        for (int i = 0; i < 16; i++) {
          if constexpr (Bits == 3) lanes[i] = levels[t == 0 ? i & 7 : ((i >> 1) & 3) | (i & 1) << 2];
          else if constexpr (Bits < 5) lanes[i] = levels[i & ((1 << Bits) - 1)];
          else lanes[i] = levels[16 * t + i];
        }
        table[t] = _mm512_load_ps(lanes);
      }
    }

    struct Codes {
      __m512i index[8];
    };
    static Codes codes(const std::uint8_t *packed) {
      Codes c;
      code_indices<Bits>(packed, c.index);
      return c;
    }

    static constexpr unsigned first_bit(int z) {
      const int place = CodePlaces<Bits>::of(z);
      return static_cast<unsigned>(Bits == 1 ? place : Bits == 2 ? 2 * place : Bits == 3 ? (place == 0 ? 0 : place == 3 ? 2 : 3) : 0);
    }

    F at(const Codes &c, int z, int j) const {
      const unsigned shift = static_cast<unsigned>(8 * j) + first_bit(z);
      const __m512i i = shift ? _mm512_srli_epi32(c.index[z], shift) : c.index[z];
      if constexpr (Bits == 3) return _mm512_permutexvar_ps(i, table[z == 6 ? 1 : 0]);
      else if constexpr (Bits < 5) return _mm512_permutexvar_ps(i, table[0]);
      else if constexpr (Bits == 5) return _mm512_permutex2var_ps(table[0], i, table[1]);
      else {
        const __mmask16 high = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
        return _mm512_mask_blend_ps(high, _mm512_permutex2var_ps(table[0], i, table[1]), _mm512_permutex2var_ps(table[2], i, table[3]));
      }
    }
  };

  // A table of 128 or 256 floats is too large for registers, one of bytes is not.
  template <int Bits>
  struct ByteLevels {
    LevelTable<Bits> table;

    explicit ByteLevels(const float *levels) : table(Bytes(levels).of) {}

    struct Codes {
      __m512i level[8];
    };
    Codes codes(const std::uint8_t *packed) const {
      Codes c;
      __m512i index[8];
      code_indices<Bits>(packed, index);
#pragma GCC unroll 8
      for (int z = 0; z < 8; z++) c.level[z] = table.look_up(index[z], z);
      return c;
    }
    static F at(const Codes &c, int z, int j) {
      const __m512i high = j < 3 ? _mm512_slli_epi32(c.level[z], static_cast<unsigned>(24 - 8 * j)) : c.level[z];
      return _mm512_cvtepi32_ps(_mm512_srai_epi32(high, 24));
    }

   private:
    struct Bytes {
      std::int8_t of[1 << Bits];
      explicit Bytes(const float *levels) {
        for (int c = 0; c < 1 << Bits; c++) of[c] = static_cast<std::int8_t>(levels[c]);
      }
    };
  };
};
template <>
struct FloatOps::Levels<7> : FloatOps::ByteLevels<7> {
  using ByteLevels::ByteLevels;
};
template <>
struct FloatOps::Levels<8> : FloatOps::ByteLevels<8> {
  using ByteLevels::ByteLevels;
};

}  // namespace
}  // namespace bitshift::simd::avx512

#include "float.inc.h"

#include "expadd.inc.h"

namespace bitshift::simd::avx512 {

extern const FloatKernel *const float_kernels[] = {&f32_gemv, &f32_gemm, &f32_expadd, &f32_conv, nullptr};

}  // namespace bitshift::simd::avx512
