// The thread pool: every thread runs once, barriers hold, a busy pool says so, a forked child gets workers of its own.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "../src/pool.h"

using bitshift::Pool;

namespace {

void expect(bool condition, const char *what) {
  if (condition) return;
  std::fprintf(stderr, "test_pool: %s\n", what);
  std::exit(1);
}

// Every thread adds its cells of an array, whose values the phase before has written on other threads.
void phases(Pool &pool, int rounds) {
  const int threads = pool.threads(), cells = 64;
  std::vector<long> from(cells, 1), to(cells, 0);
  const bool ran = pool.try_run([&](int thread) {
    for (int round = 0; round < rounds; round++) {
      std::vector<long> &source = round % 2 ? to : from, &target = round % 2 ? from : to;
      for (int i = cells * thread / threads; i < cells * (thread + 1) / threads; i++)
        target[static_cast<std::size_t>(i)] = source[static_cast<std::size_t>((i + 17) % cells)] + 1;
      pool.barrier();
    }
  });
  expect(ran, "a free pool refuses to run");
  const std::vector<long> &last = rounds % 2 ? to : from;
  for (long value : last) expect(value == 1 + rounds, "a thread passed a barrier before the others came");
}

}  // namespace

int main() {
  for (int threads : {1, 2, 3, 5}) {
    Pool pool(threads);
    for (int round = 0; round < 200; round++) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(threads));
      expect(pool.try_run([&](int thread) { calls[static_cast<std::size_t>(thread)]++; }), "a free pool refuses to run");
      for (auto &count : calls) expect(count == 1, "a thread ran another number of times than once");
    }
    phases(pool, 101);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the workers sleep by now
    phases(pool, 100);
  }

  {  // From inside of a run the pool is busy, for other threads too.
    Pool pool(2);
    bool second = true;
    pool.try_run([&](int thread) {
      if (thread == 0) std::thread([&] { second = pool.try_run([](int) {}); }).join();
    });
    expect(!second, "a busy pool ran a second job");
    phases(pool, 10);
  }

  {  // Many callers: a run is one caller's own, the others are turned away, nothing is lost.
    Pool pool(2);
    std::atomic<long> done{0}, alone{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; c++)
      callers.emplace_back([&] {
        for (int i = 0; i < 300; i++)
          if (!pool.try_run([&](int) { done++; })) alone++;
      });
    for (std::thread &caller : callers) caller.join();
    expect(done + 2 * alone == 2 * 4 * 300, "a run was lost");
  }

  {
    const auto one = bitshift::shared_pool(2), other = bitshift::shared_pool(2);
    expect(one == other, "two shared pools of one size");
  }

#if defined(__unix__) && !defined(__SANITIZE_THREAD__)
  {
    Pool pool(3);
    phases(pool, 10);
    const pid_t child = fork();
    if (child == 0) {
      phases(pool, 10);
      phases(pool, 10);
      _exit(0);
    }
    int status = 0;
    expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child cannot use the pool");
    phases(pool, 10);
  }
#endif
  std::puts("test_pool: ok");
  return 0;
}
