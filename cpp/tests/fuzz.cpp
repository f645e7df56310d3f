// The fuzz driver. Every file it meets must be refused with a message or run to its end; the sanitizers watch. Files are loaded
// from memory or, mapped, from a path; good ones run with each instruction set and with one to three threads, and integers must
// be those of the portable kernels.
//
//   bitshift_fuzz DIR                             load and run every file of DIR (or the file DIR) as it is
//   bitshift_fuzz --mutations N [--seed S] DIR    N mutations, spread over the files of DIR
//   ... --expect-valid                            exit 1 if a file is refused
//   ... --verdicts                                print "ok", "bad file" or "bad call" with the message, one line a file
//
// Under the limits below a valid model runs in milliseconds, so that 10,000 files take a few minutes with sanitizers on.
#include <cctype>
#include <memory>

#include "models.h"

namespace {

using tests::Bytes;
using tests::die;

constexpr std::size_t kBatch = 2;

struct Tally {
  std::size_t ran = 0, refused = 0;
};

bs_options limits(const char *isa, int threads) {
  bs_options out = BS_OPTIONS_INIT;
  out.memory_limit = std::uint64_t{32} << 20;
  out.op_limit = std::uint64_t{1} << 24;
  out.isa = isa;
  out.threads = threads;
  out.tune = BS_TUNE_OFF;  // measuring takes longer than all else here
  return out;
}

// From `file` itself, or from a file at `path` with the same bytes, which is made and removed.
bs_status load(const Bytes &file, const std::string &path, const bs_options &options, bs_model **model) {
  if (path.empty()) {
    // A buffer of the exact size, so that reading one byte beyond it is seen.
    const auto exact = std::make_unique<std::uint8_t[]>(file.size());
    std::copy(file.begin(), file.end(), exact.get());
    return bs_model_load_memory(exact.get(), file.size(), &options, model);
  }
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char *>(file.data()), static_cast<std::streamsize>(file.size()));
  const bs_status status = bs_model_load(path.c_str(), &options, model);
  std::filesystem::remove(path);
  return status;
}

// Loads `file`; runs it when it is valid. Returns whether it was.
bool try_file(const Bytes &file, const std::string &path, std::mt19937_64 &random, bool verdicts) {
  static const std::vector<std::string> isas = tests::features();
  bs_model *model = nullptr, *plain = nullptr;
  const std::string &isa = isas[random() % isas.size()];
  const bs_status status = load(file, path, limits(isa.c_str(), 1 + static_cast<int>(random() % 3)), &model);
  if (status != BS_OK) {
    if (model || (status != BS_BAD_FILE && status != BS_BAD_CALL) || !*bs_last_error()) die("load");
    if (verdicts) std::printf("%s: %s\n", status == BS_BAD_FILE ? "bad file" : "bad call", bs_last_error());
    return false;
  }
  if (verdicts) std::printf("ok\n");
  tests::Call call(model, kBatch, random);
  if (call.run(model) != BS_OK) die("run");
  if (isa != "portable" && tests::only_integers(model)) {
    if (load(file, "", limits("portable", 1), &plain) != BS_OK) die("load with the portable kernels");
    tests::Call same = call;
    if (same.run(plain) != BS_OK) die("run with the portable kernels");
    if (same.out != call.out) die(isa + " gives other integers than portable");
    bs_free(plain);
  }
  bs_free(model);
  return true;
}

std::uint64_t header_length(const Bytes &file) {
  std::uint64_t n = 0;
  for (int i = 7; i >= 0 && file.size() >= 8; i--) n = n << 8 | file[static_cast<std::size_t>(i)];
  return n;
}

// A number of the header replaced, with the header's length kept right: gets past the container to the graph's rules.
bool mutate_number(Bytes &file, std::mt19937_64 &random) {
  const std::uint64_t length = header_length(file);
  if (length > file.size() - 8) return false;
  std::vector<std::size_t> starts;
  for (std::size_t i = 8; i < 8 + length; i++)
    if (std::isdigit(file[i]) && !std::isdigit(file[i - 1])) starts.push_back(i);
  if (starts.empty()) return false;
  const std::size_t at = starts[random() % starts.size()];
  std::size_t end = at;
  while (end < file.size() && std::isdigit(file[end])) end++;
  static const char *const numbers[] = {"0", "1", "2", "3", "7", "8", "31", "32", "33", "62", "63", "64", "255", "65535", "65536",
                                        "2147483647", "2147483648", "4294967296", "9223372036854775807", "-1", "1e9", "0.5", "null"};
  const std::string text = numbers[random() % (sizeof numbers / sizeof numbers[0])];
  file.erase(file.begin() + static_cast<std::ptrdiff_t>(at), file.begin() + static_cast<std::ptrdiff_t>(end));
  file.insert(file.begin() + static_cast<std::ptrdiff_t>(at), text.begin(), text.end());
  const std::uint64_t changed = length + text.size() - (end - at);
  for (int i = 0; i < 8; i++) file[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(changed >> (8 * i));
  return true;
}

Bytes mutated(Bytes file, std::mt19937_64 &random) {
  const std::size_t rounds = random() % 2 ? 1 : 1 + random() % 3;
  for (std::size_t r = 0; r < rounds && !file.empty(); r++) {
    const std::size_t at = random() % file.size();
    const auto place = file.begin() + static_cast<std::ptrdiff_t>(at);
    const std::size_t length = std::min<std::size_t>(1 + random() % 16, file.size() - at);
    switch (random() % 12) {
      case 0: file[at] ^= static_cast<std::uint8_t>(1u << random() % 8); break;
      case 1: file[at] = static_cast<std::uint8_t>(random()); break;
      case 2: file.resize(at); break;
      case 3: file.erase(place, place + static_cast<std::ptrdiff_t>(length)); break;
      case 4: {
        const Bytes copy(place, place + static_cast<std::ptrdiff_t>(length));
        file.insert(file.begin() + static_cast<std::ptrdiff_t>(random() % file.size()), copy.begin(), copy.end());
        break;
      }
      case 5: case 6: case 7: {  // a bit of the data alone
        const std::uint64_t begin = 8 + header_length(file);
        if (begin < file.size()) file[begin + random() % (file.size() - begin)] ^= static_cast<std::uint8_t>(1u << random() % 8);
        break;
      }
      default: mutate_number(file, random);
    }
  }
  return file;
}

}  // namespace

int main(int argc, char **argv) {
  std::size_t mutations = 0;
  std::uint64_t seed = 0;
  bool expect_valid = false, verdicts = false;
  std::string where;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    if (arg == "--mutations" && i + 1 < argc)
      mutations = std::strtoull(argv[++i], nullptr, 10);
    else if (arg == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (arg == "--expect-valid")
      expect_valid = true;
    else if (arg == "--verdicts")
      verdicts = true;
    else
      where = arg;
  }
  const std::vector<std::filesystem::path> paths = tests::model_files(where);
  if (paths.empty()) {
    std::fprintf(stderr, "usage: %s [--mutations N] [--seed S] [--expect-valid] [--verdicts] DIR\n", argv[0]);
    return 2;
  }
  Tally tally;
  const auto scratch = std::filesystem::temp_directory_path() / ("bitshift_fuzz_" + std::to_string(std::random_device()()));
  auto attempt = [&](const Bytes &file, std::uint64_t number) {
    std::mt19937_64 random(number);
    (try_file(file, number % 2 ? scratch.string() : "", random, verdicts) ? tally.ran : tally.refused)++;
  };
  std::vector<Bytes> files;
  for (const auto &path : paths) {
    files.push_back(tests::read(path));
    if (!mutations) attempt(files.back(), seed);
  }
  for (std::size_t i = 0; i < mutations; i++) {
    std::mt19937_64 random(seed * 1000003 + i);
    attempt(mutated(files[i % files.size()], random), i);
  }
  std::fprintf(stderr, "%zu files ran, %zu were refused\n", tally.ran, tally.refused);
  return expect_valid && tally.refused ? 1 : 0;
}
