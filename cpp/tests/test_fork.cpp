// fork(): a child goes on with the models of its parent, whose threads it has not, while the parent runs on. Also when another
// thread of the parent is in the middle of a run.
#include <atomic>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include "models.h"

// The address sanitizer of gcc 12 does not hold its own allocator over fork(): a child of a busy parent may wait for it forever.
#if defined(__SANITIZE_ADDRESS__)
#define BUSY_FORKS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUSY_FORKS 0
#endif
#endif
#ifndef BUSY_FORKS
#define BUSY_FORKS 150
#endif

namespace {

using tests::Call;
using tests::die;

bs_model *load(const char *path, int threads) {
  bs_options options = BS_OPTIONS_INIT;
  options.threads = threads;
  options.tune = BS_TUNE_OFF;
  bs_model *model = nullptr;
  if (bs_model_load(path, &options, &model) != BS_OK) die("load");
  return model;
}

void run_and_compare(const bs_model *model, const Call &right, const char *who) {
  Call mine = right;
  if (mine.run(model) != BS_OK) die(who);
  if (mine.out != right.out) die(std::string(who) + ": wrong output");
}

// A child that runs the model, a new one, and the first again; a lost thread would show as a child that never ends.
pid_t start_child(const char *path, const bs_model *model, const Call &right, int threads) {
  const pid_t child = fork();
  if (child < 0) die("fork");
  if (child > 0) return child;
  alarm(60);
  run_and_compare(model, right, "child");
  bs_model *fresh = load(path, threads);
  run_and_compare(fresh, right, "child, new model");
  run_and_compare(model, right, "child, again");
  bs_free(fresh);
  std::_Exit(0);
}

void expect_success(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) die("the child failed or hung");
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  for (int threads = 1; threads <= 3; threads++) {
    bs_model *model = load(argv[1], threads);
    std::mt19937_64 random(3);
    Call right(model, 4, random);
    if (right.run(model) != BS_OK) die("run");
    const pid_t idle = start_child(argv[1], model, right, threads);
    run_and_compare(model, right, "parent");
    expect_success(idle);

    std::atomic<bool> done{false};
    std::thread busy([&] {
      while (!done) run_and_compare(model, right, "busy thread");
    });
    for (int i = 0; i < BUSY_FORKS; i++) {
      const pid_t child = start_child(argv[1], model, right, threads);
      run_and_compare(model, right, "parent beside a busy thread");
      expect_success(child);
    }
    done = true;
    busy.join();
    bs_free(model);
  }
  std::printf("fork: ok\n");
  return 0;
}
