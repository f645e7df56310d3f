// Many threads run one model at the same time, each run with threads of its own, and some load it anew meanwhile. Every output
// must be that of one thread running alone; integers also that of the portable kernels.
//
//   bitshift_hammer [--seconds S] [--threads N] DIR-or-FILE     2 seconds, 8 threads
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "models.h"

namespace {

using tests::Call;
using tests::die;
using Model = std::unique_ptr<bs_model, void (*)(bs_model *)>;
using Clock = std::chrono::steady_clock;

Model load(const std::filesystem::path &path, const std::string &isa, int threads) {
  bs_options options = BS_OPTIONS_INIT;
  options.isa = isa.c_str();
  options.threads = threads;
  options.tune = BS_TUNE_OFF;
  bs_model *model = nullptr;
  if (bs_model_load(path.c_str(), &options, &model) != BS_OK) die("load " + path.string());
  return Model(model, bs_free);
}

// Calls of several sizes with the outputs that are right.
std::vector<Call> expected(const bs_model *alone, const bs_model *portable, const std::string &what) {
  std::vector<Call> out;
  std::mt19937_64 random(11);
  for (const std::size_t batch : {1, 1, 2, 5, 16}) {
    Call call(alone, batch, random, true);
    if (call.run(alone) != BS_OK) die("run " + what);
    Call same = call;
    if (tests::only_integers(alone) && (same.run(portable) != BS_OK || same.out != call.out)) die(what + ": not the portable kernels' integers");
    out.push_back(std::move(call));
  }
  return out;
}

// `count` threads against one file and instruction set until `end`. Gives the number of runs.
std::uint64_t hammer(const std::filesystem::path &path, const std::string &isa, std::size_t count, Clock::time_point end) {
  const std::string what = path.filename().string() + " with " + isa;
  const std::vector<Model> models = [&] {
    std::vector<Model> out;
    for (int threads = 1; threads <= 3; threads++) out.push_back(load(path, isa, threads));
    return out;
  }();
  const std::vector<Call> calls = expected(models[0].get(), load(path, "portable", 1).get(), what);
  std::atomic<std::uint64_t> runs{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < count; t++) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      do {
        const Call &right = calls[random() % calls.size()];
        Call mine = right;
        for (tests::Bytes &buffer : mine.out) std::fill(buffer.begin(), buffer.end(), std::uint8_t{0xA5});
        const Model fresh = random() % 64 ? Model(nullptr, bs_free) : load(path, isa, 1 + static_cast<int>(random() % 3));
        const bs_model *model = fresh ? fresh.get() : models[random() % models.size()].get();
        if (mine.run(model) != BS_OK) die("run " + what);
        if (mine.out != right.out) die(what + ": wrong output in thread " + std::to_string(t) + ", batch " + std::to_string(mine.batch));
        runs++;
      } while (Clock::now() < end);
    });
  }
  for (std::thread &thread : threads) thread.join();
  return runs;
}

}  // namespace

int main(int argc, char **argv) {
  double seconds = 2;
  std::size_t threads = 8;
  std::string where;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    if (arg == "--seconds" && i + 1 < argc)
      seconds = std::strtod(argv[++i], nullptr);
    else if (arg == "--threads" && i + 1 < argc)
      threads = std::strtoull(argv[++i], nullptr, 10);
    else
      where = arg;
  }
  const std::vector<std::filesystem::path> paths = tests::model_files(where);
  if (paths.empty() || threads < 1) {
    std::fprintf(stderr, "usage: %s [--seconds S] [--threads N] DIR-or-FILE\n", argv[0]);
    return 2;
  }
  const std::vector<std::string> isas = tests::features();
  const std::size_t rounds = paths.size() * isas.size();
  const auto begin = Clock::now();
  std::uint64_t runs = 0;
  for (std::size_t i = 0; i < rounds; i++) {
    // The time is shared by the rounds; what loading took of one is taken from those behind it.
    const std::chrono::duration<double> share(seconds * static_cast<double>(i + 1) / static_cast<double>(rounds));
    runs += hammer(paths[i / isas.size()], isas[i % isas.size()], threads, begin + std::chrono::duration_cast<Clock::duration>(share));
  }
  std::printf("hammer: %llu runs of %zu models by %zu threads, no wrong output\n", static_cast<unsigned long long>(runs), paths.size(), threads);
  return 0;
}
