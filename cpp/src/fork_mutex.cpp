#include "fork_mutex.h"

#include <algorithm>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bitshift {
namespace {

struct Registry {
  std::mutex guard;
  std::vector<ForkMutex *> all;

  // Before fork() everything is locked; in both processes the forking thread gives it free again. It is an ordinary mutex, of
  // which POSIX lets the child's only thread be the owner.
  void hold() {
    guard.lock();
    for (ForkMutex *mutex : all) mutex->lock();
  }
  void release() {
    for (ForkMutex *mutex : all) mutex->unlock();
    guard.unlock();
  }
};

// Never destroyed: mutexes with static storage leave it at the very end.
Registry &registry() {
  static Registry *const found = [] {
    auto *made = new Registry;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { registry().hold(); }, [] { registry().release(); }, [] { registry().release(); });
#endif
    return made;
  }();
  return *found;
}

}  // namespace

ForkMutex::ForkMutex() {
  Registry &r = registry();
  const std::lock_guard<std::mutex> lock(r.guard);
  r.all.push_back(this);
}

ForkMutex::~ForkMutex() {
  Registry &r = registry();
  const std::lock_guard<std::mutex> lock(r.guard);
  r.all.erase(std::find(r.all.begin(), r.all.end(), this));
}

}  // namespace bitshift
