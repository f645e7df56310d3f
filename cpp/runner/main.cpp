// bitshift-run: runs a model file from the command line, through the C API alone.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "profile.h"
#include "values.h"

namespace runner {
namespace {

constexpr char kUsage[] =
    "usage: bitshift-run MODEL [options]\n"
    "  --input [NAME=]FILE   samples of an input: .npy (its integers, or float32 values, which are quantised), else raw bytes.\n"
    "                        Without a name: the inputs in order. Without any: random samples\n"
    "  --output [NAME=]FILE  where an output goes: .npy, else raw bytes. Without any: its first elements are printed\n"
    "  --float               outputs as float32 values instead of integers\n"
    "  --batch N             number of random samples (1)\n"
    "  --seed N              of the random samples (0)\n"
    "  --threads N           default: BITSHIFT_THREADS, else the processors that may be used\n"
    "  --isa NAME            instruction set; default: BITSHIFT_ISA, else the best one\n"
    "  --tune WORD           auto, off or force: how kernels are chosen\n"
    "  --repeat N            times N runs, after up to 20 that warm up, and prints median and spread\n"
    "  --profile FILE        times every step of the runs: a table, and a trace for chrome://tracing or ui.perfetto.dev\n"
    "  --info                describes the model and its steps, and runs nothing\n"
    "  --version             of the library, and the instruction sets that it and this machine have\n";

struct Arguments {
  std::string model, isa, profile;
  std::vector<std::string> inputs, outputs;
  bs_tune tune = BS_TUNE_DEFAULT;
  int threads = 0;
  std::size_t batch = 0, repeat = 0;
  std::uint64_t seed = 0;
  bool real = false, info = false, version = false;
};

std::uint64_t number(const std::string &option, const std::string &text, std::uint64_t lo, std::uint64_t hi) {
  char *end = nullptr;
  errno = 0;
  const unsigned long long found = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || text[0] < '0' || text[0] > '9' || *end || errno || found < lo || found > hi)
    throw Complaint(option + " " + text + ": a whole number from " + std::to_string(lo) + " to " + std::to_string(hi) + " is needed");
  return found;
}

bs_tune tune_of(const std::string &text) {
  if (text == "auto") return BS_TUNE_AUTO;
  if (text == "off") return BS_TUNE_OFF;
  if (text == "force") return BS_TUNE_FORCE;
  throw Complaint("--tune " + text + ": auto, off or force is needed");
}

Arguments parse(const std::vector<std::string> &words) {
  Arguments out;
  for (std::size_t i = 0; i < words.size(); i++) {
    const std::size_t equals = words[i].compare(0, 2, "--") == 0 ? words[i].find('=') : std::string::npos;
    const std::string option = words[i].substr(0, equals);
    auto value = [&]() -> std::string {
      if (equals != std::string::npos) return words[i].substr(equals + 1);
      if (i + 1 == words.size()) throw Complaint(option + " needs a value");
      return words[++i];
    };
    auto flag = [&] {
      if (equals != std::string::npos) throw Complaint(option + " takes no value");
      return true;
    };
    if (option == "--input") out.inputs.push_back(value());
    else if (option == "--output") out.outputs.push_back(value());
    else if (option == "--float") out.real = flag();
    else if (option == "--batch") out.batch = number(option, value(), 1, 1u << 20);
    else if (option == "--seed") out.seed = number(option, value(), 0, ~std::uint64_t{0});
    else if (option == "--threads") out.threads = static_cast<int>(number(option, value(), 1, 4096));
    else if (option == "--isa") out.isa = value();
    else if (option == "--tune") out.tune = tune_of(value());
    else if (option == "--repeat") out.repeat = number(option, value(), 1, 1u << 30);
    else if (option == "--profile") out.profile = value();
    else if (option == "--info") out.info = flag();
    else if (option == "--version") out.version = flag();
    else if (words[i].compare(0, 1, "-") == 0) throw Complaint("unknown option " + words[i] + "\n" + kUsage);
    else if (out.model.empty()) out.model = words[i];
    else throw Complaint("one model at a time: " + words[i] + " comes after " + out.model);
  }
  if (out.model.empty() && !out.version) throw Complaint(std::string("which model?\n") + kUsage);
  return out;
}

void check(bs_status status) {
  if (status != BS_OK) throw Complaint(bs_last_error());
}

using Model = std::unique_ptr<bs_model, void (*)(bs_model *)>;

Model load(const Arguments &arguments) {
  bs_options options = BS_OPTIONS_INIT;
  options.threads = arguments.threads;
  options.isa = arguments.isa.empty() ? nullptr : arguments.isa.c_str();
  options.tune = arguments.tune;
  bs_model *model = nullptr;
  check(bs_model_load(arguments.model.c_str(), &options, &model));
  return Model(model, bs_free);
}

std::vector<bs_value_info> values(const bs_model *model, size_t (*count)(const bs_model *),
                                  bs_status (*info)(const bs_model *, size_t, bs_value_info *)) {
  std::vector<bs_value_info> out(count(model));
  for (std::size_t i = 0; i < out.size(); i++) check(info(model, i, &out[i]));
  return out;
}

// The file for each value from a list of [NAME=]FILE; empty where there is none.
std::vector<std::string> files_for(const char *option, const std::vector<std::string> &given, const std::vector<bs_value_info> &infos) {
  std::vector<std::string> out(infos.size());
  std::size_t next = 0;
  for (const std::string &text : given) {
    std::size_t at = infos.size();
    std::string file = text;
    for (std::size_t i = 0; i < infos.size(); i++) {
      const std::string name = std::string(infos[i].name) + "=";
      if (text.compare(0, name.size(), name) != 0) continue;
      at = i;
      file = text.substr(name.size());
    }
    if (at == infos.size()) at = next++;
    if (at >= infos.size()) throw Complaint(std::string(option) + " " + text + ": the model has " + std::to_string(infos.size()));
    if (!out[at].empty()) throw Complaint(std::string(option) + ": two files for " + infos[at].name);
    out[at] = file;
  }
  return out;
}

double milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void describe(const bs_model *model, const std::vector<bs_value_info> &inputs, const std::vector<bs_value_info> &outputs) {
  for (const bs_value_info &v : inputs) std::printf("input   %s  %s, %zu bytes a sample\n", v.name, type_text(v).c_str(), v.sample_bytes);
  for (const bs_value_info &v : outputs) std::printf("output  %s  %s, %zu bytes a sample\n", v.name, type_text(v).c_str(), v.sample_bytes);
  std::size_t weights = 0;
  double operations = 0;
  std::printf("\n%12s %10s  %-12s %-16s %-9s %s\n", "operations", "weights", "op", "kernel", "isa", "step");
  for (std::size_t i = 0; i < bs_step_count(model); i++) {
    bs_step s;
    check(bs_step_info(model, i, &s));
    std::printf("%12.0f %10zu  %-12s %-16s %-9s %s\n", s.operations, s.weight_bytes, s.op, s.kernel, s.isa, *s.source ? s.source : s.name);
    weights += s.weight_bytes;
    operations += s.operations;
  }
  std::printf("\n%.4g operations a sample, %zu bytes of weights, %zu bytes of activations and scratch memory a run; %s, threads: %d\n", operations,
              weights, bs_arena_bytes(model), bs_isa(model), static_cast<int>(bs_threads(model)));
}

// The first elements of the first sample.
void print_output(const bs_value_info &info, const std::vector<std::uint8_t> &data, bool real) {
  const std::size_t count = info.sample_bytes / item_bytes(info.dtype), shown = std::min<std::size_t>(count, 10);
  std::printf("%s  %s:", info.name, type_text(info).c_str());
  for (std::size_t i = 0; i < shown; i++) std::printf(" %.7g", real ? value_of(info, data.data(), i) : element_of(info, data.data(), i));
  std::printf(shown < count ? " ...\n" : "\n");
}

// Buffers of a call.
struct Call {
  std::size_t batch = 0;
  std::vector<std::vector<std::uint8_t>> in, out;
  std::vector<const void *> from;
  std::vector<void *> to;
  std::vector<std::size_t> from_bytes, to_bytes;

  void run(const bs_model *model, Profile *profile) {
    if (!profile) return check(bs_run(model, batch, from.data(), from_bytes.data(), to.data(), to_bytes.data()));
    profile->begin_run();
    check(bs_run_profiled(model, batch, from.data(), from_bytes.data(), to.data(), to_bytes.data(), Profile::record, profile));
  }
};

Call prepare(const bs_model *model, const Arguments &arguments, const std::vector<bs_value_info> &inputs,
             const std::vector<bs_value_info> &outputs) {
  Call call;
  if (arguments.inputs.empty()) {
    call.batch = std::max<std::size_t>(arguments.batch, 1);
    std::mt19937_64 random(arguments.seed);
    for (std::size_t i = 0; i < inputs.size(); i++) {
      std::int32_t lo = 0, hi = 0;
      check(bs_input_range(model, i, &lo, &hi));
      call.in.push_back(random_input(inputs[i], lo, hi, call.batch, random));
    }
  } else {
    if (arguments.batch) throw Complaint("--batch is for random samples; the number of samples is that of the files");
    const std::vector<std::string> files = files_for("--input", arguments.inputs, inputs);
    for (std::size_t i = 0; i < inputs.size(); i++) {
      if (files[i].empty()) throw Complaint(std::string("no file for input ") + inputs[i].name + ": --input " + inputs[i].name + "=FILE");
      std::size_t batch = 0;
      call.in.push_back(read_input(files[i], inputs[i], batch));
      if (i && batch != call.batch)
        throw Complaint(files[i] + " holds " + std::to_string(batch) + " samples, the files before it " + std::to_string(call.batch));
      call.batch = batch;
    }
  }
  for (const bs_value_info &info : outputs) call.out.emplace_back(call.batch * info.sample_bytes);
  for (const auto &buffer : call.in) {
    call.from.push_back(buffer.data());
    call.from_bytes.push_back(buffer.size());
  }
  for (auto &buffer : call.out) {
    call.to.push_back(buffer.data());
    call.to_bytes.push_back(buffer.size());
  }
  return call;
}

void print_times(const std::vector<double> &ms, std::size_t batch) {
  const double median = quantile(ms, 0.5);
  std::printf("%zu runs of %zu sample%s: median %.4g ms, 5 %% to 95 %% %.4g to %.4g ms, fastest %.4g ms; %.4g samples/s\n", ms.size(), batch,
              batch == 1 ? "" : "s", median, quantile(ms, 0.05), quantile(ms, 0.95), quantile(ms, 0), static_cast<double>(batch) / median * 1e3);
}

int run(const std::vector<std::string> &words) {
  const Arguments arguments = parse(words);
  if (arguments.version) {
    std::printf("bitshift %s\nbuilt with: %s\nhere: %s\n", bs_version(), bs_build_features(), bs_features());
    return 0;
  }
  const double start = milliseconds();
  const Model owner = load(arguments);
  const bs_model *model = owner.get();
  const double loaded = milliseconds() - start;
  const std::vector<bs_value_info> inputs = values(model, bs_input_count, bs_input_info), outputs = values(model, bs_output_count, bs_output_info);
  if (arguments.info) {
    describe(model, inputs, outputs);
    return 0;
  }
  const std::vector<std::string> files = files_for("--output", arguments.outputs, outputs);
  Call call = prepare(model, arguments, inputs, outputs);
  Profile profile(model);
  Profile *const recorded = arguments.profile.empty() ? nullptr : &profile;
  std::vector<double> ms;
  // As many runs as are timed, but no more than 20, bring caches, clocks and memory to their usual state.
  for (std::size_t i = 0; i < std::min<std::size_t>(arguments.repeat, 20); i++) call.run(model, nullptr);
  for (std::size_t i = 0; i < std::max<std::size_t>(arguments.repeat, 1); i++) {
    const double begin = milliseconds();
    call.run(model, recorded);
    ms.push_back(milliseconds() - begin);
  }
  for (std::size_t i = 0; i < outputs.size(); i++) {
    if (!files[i].empty() && is_npy(files[i]))
      write_npy(files[i], output_array(outputs[i], call.out[i], call.batch, arguments.real));
    else if (!files[i].empty())
      write_file(files[i], call.out[i]);
    else if (call.batch)
      print_output(outputs[i], call.out[i], arguments.real);
  }
  if (arguments.repeat) {
    std::printf("loaded in %.4g ms\n", loaded);
    print_times(ms, call.batch);
  }
  if (recorded) {
    profile.print();
    profile.write_trace(arguments.profile);
  }
  return 0;
}

}  // namespace
}  // namespace runner

int main(int argc, char **argv) {
  try {
    return runner::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception &error) {
    std::fprintf(stderr, "bitshift-run: %s\n", error.what());
    return 1;
  }
}
