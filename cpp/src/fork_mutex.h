// A mutex that a forked child finds free, whatever the parent's threads were doing.
#ifndef BITSHIFT_SRC_FORK_MUTEX_H
#define BITSHIFT_SRC_FORK_MUTEX_H

#include <mutex>

namespace bitshift {

// fork() waits until nobody holds any of these, so that what they guard is whole in the child. They guard short work, no thread
// holds two, and none is made or destroyed under another.
class ForkMutex {
 public:
  ForkMutex();
  ~ForkMutex();
  ForkMutex(const ForkMutex &) = delete;
  ForkMutex &operator=(const ForkMutex &) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

}  // namespace bitshift
#endif
