#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "fork_mutex.h"

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bitshift {
#if defined(__linux__)
std::vector<int> processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> out;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return out;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &set)) out.push_back(cpu);
  return out;
}

void bind_to(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}
#else
std::vector<int> processors() { return {}; }
void bind_to(int) {}
#endif

namespace {

using Clock = std::chrono::steady_clock;

// How long a worker looks for the next run before it sleeps: longer than the gap between runs in a loop, far under what a
// person would notice as load.
constexpr auto kSpin = std::chrono::microseconds(200);
// How long a thread waits at a barrier before it offers its processor to others: only when there are too few for all.
constexpr auto kPatience = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() for at most `limit`; whether it is done. The clock is read now and then only.
template <class Done>
bool spin(Clock::duration limit, Done done) {
  for (int i = 0; i < 256; i++) {
    if (done()) return true;
    relax();
  }
  for (const auto end = Clock::now() + limit; Clock::now() < end;)
    for (int i = 0; i < 64; i++) {
      if (done()) return true;
      relax();
    }
  return done();
}

long process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

#if defined(__linux__)
// Moves this thread to `cpu` and leaves it as free as it was.
void move_to(int cpu) {
  cpu_set_t before;
  if (sched_getaffinity(0, sizeof before, &before) != 0 || !CPU_ISSET(cpu, &before)) return;
  bind_to(cpu);
  (void)sched_setaffinity(0, sizeof before, &before);
}
#endif

bool pinning_wanted() {
  const char *found = std::getenv("BITSHIFT_PIN");
  return !found || std::strcmp(found, "0") != 0;
}

}  // namespace

struct Pool::Team {
  explicit Team(int count) : threads(count) {
    cpus = processors();
    pinned = pinning_wanted() && static_cast<int>(cpus.size()) >= count;
    try {
      for (int i = 1; i < count; i++) workers.emplace_back([this, i] { serve(i); });
    } catch (...) {
      stop();
      throw;
    }
  }

  void stop() {
    quit.store(true);
    {
      const std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
    for (std::thread &worker : workers) worker.join();
  }

  void serve(int thread) {
    if (pinned) bind_to(cpus[static_cast<std::size_t>(thread)]);
    for (unsigned seen = 0;;) {
      auto called = [&] { return epoch.load(std::memory_order_acquire) != seen || quit.load(std::memory_order_relaxed); };
      if (!spin(kSpin, called)) {
        // The caller counts sleepers behind its new epoch, we look at the epoch behind counting ourselves: one sees the other.
        std::unique_lock<std::mutex> lock(mutex);
        sleepers.fetch_add(1);
        wake.wait(lock, [&] { return epoch.load() != seen || quit.load(); });
        sleepers.fetch_sub(1);
      }
      if (quit.load()) return;
      seen++;  // runs do not overlap, so that none is missed
      (*job)(thread);
      left.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(const std::function<void(int)> &work) {
#if defined(__linux__)
    if (pinned) {
      const int here = sched_getcpu();
      if (std::find(cpus.begin() + 1, cpus.begin() + threads, here) != cpus.begin() + threads) move_to(cpus[0]);
    }
#endif
    job = &work;
    left.store(threads - 1, std::memory_order_relaxed);
    epoch.fetch_add(1);
    if (sleepers.load() > 0) {
      const std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
    work(0);
    while (!spin(kPatience, [&] { return left.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
    job = nullptr;
  }

  void barrier() {
    const unsigned round = passed.load(std::memory_order_acquire);
    if (come.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      come.store(0, std::memory_order_relaxed);
      passed.store(round + 1, std::memory_order_release);
      return;
    }
    while (!spin(kPatience, [&] { return passed.load(std::memory_order_acquire) != round; })) std::this_thread::yield();
  }

  const int threads;
  const long owner = process();
  std::vector<int> cpus;
  bool pinned = false;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  const std::function<void(int)> *job = nullptr;
  // What spinning threads read lies apart from what others write.
  alignas(64) std::atomic<unsigned> epoch{0};
  alignas(64) std::atomic<int> left{0};
  alignas(64) std::atomic<int> come{0};
  alignas(64) std::atomic<unsigned> passed{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> quit{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;
};

Pool::Pool(int threads) : threads_(std::max(threads, 1)) { start(); }

void Pool::start() {
  if (threads_ > 1) team_.store(new Team(threads_), std::memory_order_release);
}

Pool::~Pool() {
  Team *team = team_.load();
  if (!team || team->owner != process()) return;
  team->stop();
  delete team;
}

bool Pool::try_run(const std::function<void(int thread)> &job) {
  if (threads_ == 1) {
    job(0);
    return true;
  }
  if (team_.load(std::memory_order_acquire)->owner != process()) {
    static ForkMutex restarting;
    const std::lock_guard<ForkMutex> lock(restarting);
    if (team_.load()->owner != process()) start();
  }
  Team &team = *team_.load(std::memory_order_acquire);
  if (team.busy.test_and_set(std::memory_order_acquire)) return false;
  team.run(job);
  team.busy.clear(std::memory_order_release);
  return true;
}

void Pool::barrier() {
  if (threads_ > 1) team_.load(std::memory_order_acquire)->barrier();
}

std::shared_ptr<Pool> shared_pool(int threads) {
  static ForkMutex mutex;
  static std::map<int, std::weak_ptr<Pool>> pools;
  const std::lock_guard<ForkMutex> lock(mutex);
  std::shared_ptr<Pool> found = pools[threads].lock();
  if (!found) pools[threads] = found = std::make_shared<Pool>(threads);
  return found;
}

int processor_count() {
  const std::size_t found = processors().size();
  return found ? static_cast<int>(found) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace bitshift
