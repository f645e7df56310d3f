// The file of kernel choices is a hint: whatever it holds, or where it cannot be, models load and give the same integers.
#include <unistd.h>

#include "models.h"

namespace {

namespace fs = std::filesystem;
using tests::Call;
using tests::die;

// Loads with measurement, from the cache in `directory`, and compares with `right`.
void use(const fs::path &model_path, const fs::path &directory, const Call &right, bs_tune tune, const std::string &what) {
  setenv("BITSHIFT_KERNEL_CACHE", directory.c_str(), 1);
  bs_options options = BS_OPTIONS_INIT;
  options.threads = 1;
  options.tune = tune;
  bs_model *model = nullptr;
  if (bs_model_load(model_path.c_str(), &options, &model) != BS_OK) die("load, " + what);
  Call mine = right;
  if (mine.run(model) != BS_OK || mine.out != right.out) die("run, " + what);
  bs_free(model);
}

std::string text_of(const fs::path &path) {
  const tests::Bytes bytes = tests::read(path);
  return std::string(bytes.begin(), bytes.end());
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  const fs::path root = fs::temp_directory_path() / ("bitshift_cache_" + std::to_string(getpid())), model_path = argv[1];
  bs_options options = BS_OPTIONS_INIT;
  options.isa = "portable";
  bs_model *plain = nullptr;
  if (bs_model_load(argv[1], &options, &plain) != BS_OK) die("load");
  std::mt19937_64 random(5);
  Call right(plain, 3, random);
  if (right.run(plain) != BS_OK) die("run");
  bs_free(plain);

  use(model_path, root / "deep" / "new", right, BS_TUNE_AUTO, "no file yet");
  const fs::path made = root / "deep" / "new" / "kernels.txt";
  const bool measured = fs::exists(made);  // not where no layer has two candidates
  const std::string good = measured ? text_of(made) : "bitshift kernels 1\n";
  if (measured && good.rfind("bitshift kernels 1\n", 0) != 0) die("the file has no header");
  use(model_path, root / "forced", right, BS_TUNE_FORCE, "all measured again");
  use(model_path, root / "off", right, BS_TUNE_OFF, "nothing measured");
  if (fs::exists(root / "off")) die("a load that measures nothing wrote a file");

  std::string renamed = good;
  for (std::size_t at = 0; (at = renamed.find('\t', at)) != std::string::npos; at++) renamed.replace(at + 1, renamed.find('\n', at) - at - 1, "nonsense");
  const std::vector<std::string> damaged = {"", "bitshift kernels 2\n", std::string(100000, '\0'), std::string(5000000, '\t'), good.substr(0, good.size() / 2),
                                            "bitshift kernels 1\n\t\n\t\t\t\n\n\xff\xfe\t", renamed};
  for (std::size_t i = 0; i < damaged.size(); i++) {
    const fs::path directory = root / std::to_string(i);
    fs::create_directories(directory);
    std::ofstream(directory / "kernels.txt", std::ios::binary) << damaged[i];
    use(model_path, directory, right, BS_TUNE_AUTO, "damaged file " + std::to_string(i));
  }
  std::ofstream(root / "file") << "no directory";
  use(model_path, root / "file" / "below", right, BS_TUNE_AUTO, "nowhere to write");
  fs::create_directories(root / "folder" / "kernels.txt");
  use(model_path, root / "folder", right, BS_TUNE_AUTO, "a directory in the file's place");
  fs::remove_all(root);
  std::printf("kernel cache: ok\n");
  return 0;
}
