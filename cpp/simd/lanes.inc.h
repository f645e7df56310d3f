// Vectors of the compiler's own (gcc, clang) as wide as the instruction set that a file is compiled for. Included inside the
// namespace of that set.

#if defined(__AVX512BW__)
constexpr int kWidth = 64;  // bytes of a register
#elif defined(__AVX2__)
constexpr int kWidth = 32;
#else
constexpr int kWidth = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <class V>
BITSHIFT_INLINE V load(const void *p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
BITSHIFT_INLINE void store(void *p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// No std::min: a copy of it compiled for this set could end up in code for every processor.
template <class T>
constexpr BITSHIFT_INLINE T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr BITSHIFT_INLINE T greatest(T a, T b) {
  return a > b ? a : b;
}

// f(sample, piece) for this thread's share of `pieces` pieces of each sample.
template <class F>
BITSHIFT_INLINE void each_piece(const Task &task, std::int64_t pieces, F f) {
  std::int64_t begin, end;
  task.share(task.samples * pieces, begin, end);
  for (std::int64_t i = begin; i < end; i++) f(i / pieces, i % pieces);
}
