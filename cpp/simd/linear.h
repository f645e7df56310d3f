// Matrix products: 8-bit rows times packed weights with rule 4, and float32 rows or planar maps times packed weights.
#ifndef BITSHIFT_SIMD_LINEAR_H
#define BITSHIFT_SIMD_LINEAR_H

#include "common.h"

namespace bitshift::simd {

// Rows lie one behind the other in the values' own types (s8 is two's complement, not biased): out_zero is 0.
struct LinearLayer {
  std::int64_t in = 0, out = 0;
  Weights w;
  Requant q;  // correction belongs to a zero of 128 if signed_in, else it is 0
  bool signed_in = false;
};

struct LinearKernel {
  const char *name;  // "gemv", "gemm"
  bool (*can)(const LinearLayer &layer, std::int64_t rows);
  std::size_t (*scratch)(const LinearLayer &layer, std::int64_t rows, int threads);
  int phases;
  // task.in, task.out, task.residual: the first row; task.samples: the number of rows; strides are those of rows.
  void (*run)(const LinearLayer &layer, const Task &task, int phase);
};

// float32 activations: y = (sum x * level) * scale[c] + bias[c], any order of the sum.
struct FloatLayer {
  bool linear = false;  // task.samples rows of g.in_c -> g.out_c; else planar (C,H,W) maps
  bsk_conv g{};
  Weights w;                     // tables unused; levels below
  const float *levels = nullptr;  // by code
  const float *scale = nullptr, *bias = nullptr;  // one an output channel, zeros behind up to a multiple of 64
};

struct FloatKernel {
  const char *name;  // "f32-gemv", "f32-expadd", "f32-conv", ...
  bool (*can)(const FloatLayer &layer, std::int64_t rows);
  std::size_t (*scratch)(const FloatLayer &layer, std::int64_t rows, int threads);
  int phases;
  void (*run)(const FloatLayer &layer, const Task &task, int phase);
};

}  // namespace bitshift::simd
#endif
