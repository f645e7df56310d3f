#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_neon.h>
#endif

#include "../simd/isa.h"
#include "pool.h"

namespace bitshift {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kChains = 12;  // independent sums: more than latency times throughput of any dot product, fewer than registers

// A block of work: `count` rounds of kChains dot products; gives the products of one round.
using Dot = std::int64_t (*)(std::int64_t count);

// The instructions are written out, each sum in a variable of its own: the compiler can neither drop them nor keep sums in memory.
#define BITSHIFT_EACH_CHAIN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#if defined(__x86_64__)
#define BITSHIFT_ZERO(i) __m512i s##i = _mm512_setzero_si512();
#define BITSHIFT_DOT(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
__attribute__((target("avx512f"), noinline)) std::int64_t dot_avx512(std::int64_t count) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  BITSHIFT_EACH_CHAIN(BITSHIFT_ZERO)
  for (std::int64_t i = 0; i < count; i++) {
    BITSHIFT_EACH_CHAIN(BITSHIFT_DOT)
  }
  return kChains * 64;
}
#undef BITSHIFT_ZERO
#undef BITSHIFT_DOT

#define BITSHIFT_ZERO(i) __m256i s##i = _mm256_setzero_si256();
#define BITSHIFT_DOT(i) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s##i) : "x"(a), "x"(b));
__attribute__((target("avx2"), noinline)) std::int64_t dot_avxvnni(std::int64_t count) {
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  BITSHIFT_EACH_CHAIN(BITSHIFT_ZERO)
  for (std::int64_t i = 0; i < count; i++) {
    BITSHIFT_EACH_CHAIN(BITSHIFT_DOT)
  }
  return kChains * 32;
}
#undef BITSHIFT_DOT

#define BITSHIFT_DOT(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
__attribute__((target("avx512f,avx512vl"), noinline)) std::int64_t dot_avx512vl(std::int64_t count) {
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  BITSHIFT_EACH_CHAIN(BITSHIFT_ZERO)
  for (std::int64_t i = 0; i < count; i++) {
    BITSHIFT_EACH_CHAIN(BITSHIFT_DOT)
  }
  return kChains * 32;
}
#undef BITSHIFT_DOT

// Pairs of products, added in 16 bits and summed there: what short levels allow, and the least that AVX2 needs.
#define BITSHIFT_DOT(i) \
  __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(s##i), "=&x"(pairs) : "x"(a), "x"(b));
__attribute__((target("avx2"), noinline)) std::int64_t dot_avx2(std::int64_t count) {
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  __m256i pairs;
  BITSHIFT_EACH_CHAIN(BITSHIFT_ZERO)
  for (std::int64_t i = 0; i < count; i++) {
    BITSHIFT_EACH_CHAIN(BITSHIFT_DOT)
  }
  return kChains * 32;
}
#undef BITSHIFT_ZERO
#undef BITSHIFT_DOT
#elif defined(__aarch64__) && defined(__linux__)
#define BITSHIFT_ZERO(i) int32x4_t s##i = vdupq_n_s32(0);
#define BITSHIFT_DOT(i) \
  __asm__ volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(s##i) : "w"(a), "w"(b));
__attribute__((target("arch=armv8.2-a+dotprod"), noinline)) std::int64_t dot_neon(std::int64_t count) {
  const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(-2);
  BITSHIFT_EACH_CHAIN(BITSHIFT_ZERO)
  for (std::int64_t i = 0; i < count; i++) {
    BITSHIFT_EACH_CHAIN(BITSHIFT_DOT)
  }
  return kChains * 16;
}
#undef BITSHIFT_ZERO
#undef BITSHIFT_DOT
#endif

// nullptr if this processor or this build lacks the set.
Dot dot_of(const std::string &isa) {
  const auto &all = simd::isas();
  if (std::none_of(all.begin(), all.end(), [&](const simd::Isa &has) { return has.name == isa; })) return nullptr;
#if defined(__x86_64__)
  if (isa == "avx512") return dot_avx512;
  if (isa == "avx512vl") return dot_avx512vl;
  return isa == "avxvnni" ? dot_avxvnni : dot_avx2;
#elif defined(__aarch64__) && defined(__linux__)
  return dot_neon;
#else
  return nullptr;
#endif
}

#if defined(__x86_64__)
#define BITSHIFT_READ_TARGET __attribute__((target("avx2"), noinline))
bool wide_reads() { return __builtin_cpu_supports("avx2"); }
#else
#define BITSHIFT_READ_TARGET __attribute__((noinline))
bool wide_reads() { return true; }
#endif

template <class Vector>
inline __attribute__((always_inline)) void read_vectors(const std::uint8_t *data, std::size_t bytes) {
  Vector sums[4] = {};
  for (std::size_t i = 0; i + 4 * sizeof(Vector) <= bytes; i += 4 * sizeof(Vector))
    for (std::size_t j = 0; j < 4; j++) sums[j] += *reinterpret_cast<const Vector *>(data + i + j * sizeof(Vector));
  Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  __asm__ volatile("" : : "m"(all));
}

using Vector32 __attribute__((vector_size(32), may_alias)) = std::int64_t;
using Vector16 __attribute__((vector_size(16), may_alias)) = std::int64_t;

BITSHIFT_READ_TARGET void read_wide(const std::uint8_t *data, std::size_t bytes) { read_vectors<Vector32>(data, bytes); }
__attribute__((noinline)) void read_narrow(const std::uint8_t *data, std::size_t bytes) { read_vectors<Vector16>(data, bytes); }

// The best rate of `threads` threads that all call work(thread) again and again, which does `amount` of something a call.
double best_rate(int threads, double seconds, double amount, const std::function<void(int)> &work) {
  constexpr int kRuns = 8;
  const std::vector<int> mask = processors();
  std::atomic<int> ready{0};
  std::vector<double> rates(static_cast<std::size_t>(threads) * kRuns, 0.0);
  auto body = [&](int thread) {
    if (!mask.empty()) bind_to(mask[static_cast<std::size_t>(thread) % mask.size()]);
    for (int run = 0; run < kRuns; run++) {
      ready.fetch_add(1);
      while (ready.load() < (run + 1) * threads) std::this_thread::yield();
      const Clock::time_point begin = Clock::now();
      double elapsed = 0;
      std::int64_t calls = 0;
      while (elapsed < seconds / kRuns) {
        work(thread);
        calls++;
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      }
      rates[static_cast<std::size_t>(run * threads + thread)] = amount * static_cast<double>(calls) / elapsed;
    }
  };
  std::vector<std::thread> team;
  for (int thread = 0; thread < threads; thread++) team.emplace_back(body, thread);
  for (std::thread &member : team) member.join();
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    double sum = 0;
    for (int thread = 0; thread < threads; thread++) sum += rates[static_cast<std::size_t>(run * threads + thread)];
    best = std::max(best, sum);
  }
  return best;
}

}  // namespace

double probe_dot(const std::string &isa, int threads, double seconds) {
  const Dot dot = dot_of(isa);
  if (dot == nullptr || threads < 1) return 0;
  constexpr std::int64_t kRounds = 20000;
  const double amount = 2.0 * kRounds * static_cast<double>(dot(1));
  return best_rate(threads, seconds, amount, [dot](int) { dot(kRounds); });
}

double probe_read(std::size_t bytes, int threads, double seconds) {
  if (threads < 1) return 0;
  const std::size_t part = std::max<std::size_t>(bytes / static_cast<std::size_t>(threads) / 128 * 128, 128);
  std::vector<std::unique_ptr<std::uint8_t[]>> buffers;
  for (int thread = 0; thread < threads; thread++) {
    buffers.emplace_back(new std::uint8_t[part + 64]);
    std::fill_n(buffers.back().get(), part + 64, std::uint8_t{1});  // pages that exist: untouched ones are all the same page
  }
  const bool wide = wide_reads();
  // A small part is read several times a call, so that reading the clock does not count.
  const std::size_t repeats = std::max<std::size_t>(1, (std::size_t{1} << 20) / part);
  return best_rate(threads, seconds, static_cast<double>(part * repeats), [&](int thread) {
    auto *begin = buffers[static_cast<std::size_t>(thread)].get();
    begin += (64 - reinterpret_cast<std::uintptr_t>(begin) % 64) % 64;
    for (std::size_t i = 0; i < repeats; i++) wide ? read_wide(begin, part) : read_narrow(begin, part);
  });
}

}  // namespace bitshift
