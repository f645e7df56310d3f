// Threads that share the work of one model run: they spin between steps, sleep between runs, and stay on processors of their own.
#ifndef BITSHIFT_SRC_POOL_H
#define BITSHIFT_SRC_POOL_H

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

namespace bitshift {

// A team of `threads` threads, the caller's among them. Linux moves unpinned threads onto one processor for long stretches, so
// each worker is bound to a processor of the mask that the process had when the pool was made, and a caller found on a worker's
// processor is moved off it (BITSHIFT_PIN=0 switches both off; with more threads than processors nothing is bound).
//
// After fork() the child starts workers of its own at its first run.
class Pool {
 public:
  explicit Pool(int threads);  // at least 1; 1 starts nothing. std::system_error if the system gives no threads
  ~Pool();
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  int threads() const { return threads_; }

  // Calls job(thread) once on each thread, thread 0 being the caller's, and returns when all calls have returned: true. Returns
  // false at once, without a call, while another thread is inside run(): the caller then works alone. `job` must not throw.
  bool try_run(const std::function<void(int thread)> &job);

  // Inside a job, called by all its threads: nobody passes before all have come.
  void barrier();

 private:
  struct Team;
  void start();
  const int threads_;
  // Never deleted in a forked child, whose copy has no threads behind it and locks in any state.
  std::atomic<Team *> team_{nullptr};
};

// The pool of `threads` threads that all models of this process share.
std::shared_ptr<Pool> shared_pool(int threads);

// Processors in this thread's mask; empty where the system does not say.
std::vector<int> processors();

// Binds this thread to one of them. A refusal leaves it free.
void bind_to(int processor);

// Processors that this process may use, at least 1.
int processor_count();

}  // namespace bitshift
#endif
