// The C API: exceptions end here.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "bitshift/bitshift.h"
#include "../simd/isa.h"
#include "error.h"
#include "model.h"

// The sets whose kernels CMakeLists.txt found, the best first, each with a space behind it.
#ifdef BITSHIFT_WITH_avx512
#define BUILT_AVX512 "avx512 "
#else
#define BUILT_AVX512
#endif
#ifdef BITSHIFT_WITH_avx512vl
#define BUILT_AVX512VL "avx512vl "
#else
#define BUILT_AVX512VL
#endif
#ifdef BITSHIFT_WITH_avxvnni
#define BUILT_AVXVNNI "avxvnni "
#else
#define BUILT_AVXVNNI
#endif
#ifdef BITSHIFT_WITH_avx2
#define BUILT_AVX2 "avx2 "
#else
#define BUILT_AVX2
#endif
#ifdef BITSHIFT_WITH_neon
#define BUILT_NEON "neon "
#else
#define BUILT_NEON
#endif

constexpr bool begins(const char *text, const char *with) { return *with == 0 || (*text == *with && begins(text + 1, with + 1)); }
static_assert(begins(BITSHIFT_VERSION, BS_VERSION), "bitshift.h and src/bitshift/__init__.py name different versions");
#define NUMBER_TEXT(n) #n
#define TEXT(n) NUMBER_TEXT(n)
static_assert(begins(BS_VERSION, TEXT(BS_VERSION_MAJOR) "." TEXT(BS_VERSION_MINOR) "." TEXT(BS_VERSION_PATCH)),
              "the version macros of bitshift.h contradict each other");

static_assert(static_cast<int>(BS_U8) == BSK_U8 && static_cast<int>(BS_I8) == BSK_I8 && static_cast<int>(BS_I16) == BSK_I16 &&
                  static_cast<int>(BS_I32) == BSK_I32 && static_cast<int>(BS_F32) == BSK_F32,
              "bs_dtype and bsk_dtype are one numbering");
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the engine reads constants and tables as little-endian; this machine is not"
#endif

struct bs_model {
  std::unique_ptr<bitshift::Model> model;
};

namespace {

std::string &last_error() {
  static thread_local std::string text;
  return text;
}

bs_status failed(bs_status status, const char *text) noexcept {
  try {
    last_error() = text;
  } catch (...) {
    last_error().clear();  // no memory even for the message
  }
  return status;
}

template <class F>
bs_status guarded(F &&body) noexcept {
  try {
    body();
    return BS_OK;
  } catch (const bitshift::ModelFileError &error) {
    return failed(BS_BAD_FILE, error.what());
  } catch (const bitshift::UsageError &error) {
    return failed(BS_BAD_CALL, error.what());
  } catch (const bitshift::IoError &error) {
    return failed(BS_IO, error.what());
  } catch (const std::bad_alloc &) {
    return failed(BS_NO_MEMORY, "out of memory");
  } catch (const std::exception &error) {
    return failed(BS_INTERNAL, error.what());
  } catch (...) {
    return failed(BS_INTERNAL, "an exception of unknown kind");
  }
}

bs_status info_of(const std::vector<bitshift::Value> &values, size_t index, bs_value_info *info) noexcept {
  if (!info || index >= values.size()) return failed(BS_BAD_CALL, "no such input or output, or a null pointer");
  const bitshift::Value &v = values[index];
  const bool real = v.type.real;
  *info = {v.name.c_str(), static_cast<bs_dtype>(v.type.dtype()), real ? 0 : v.type.bits, real ? 0 : v.type.frac, !real && v.type.is_signed,
           static_cast<int32_t>(v.shape.size()), v.shape.data(), v.bytes()};
  return BS_OK;
}

// What the caller's `given` says in the terms of this version: fields that an older program lacks are 0, and those that only a
// newer library knows must be.
template <class T>
T known_part(const T *given) {
  T out{};
  if (!given) return out;
  const std::size_t size = given->struct_size, known = std::min(size, sizeof(T));
  if (size < offsetof(T, struct_size) + sizeof given->struct_size)
    throw bitshift::UsageError("struct_size of the options is " + std::to_string(size) + ": begin with the _INIT of their type");
  const auto *bytes = reinterpret_cast<const unsigned char *>(given);
  if (std::any_of(bytes + known, bytes + size, [](unsigned char b) { return b != 0; }))
    throw bitshift::UsageError("the options ask for what bitshift " BITSHIFT_VERSION " does not know; the program needs a newer library");
  std::memcpy(&out, given, known);
  return out;
}

bitshift::Options options_of(const bs_options *given) {
  const bs_options known = known_part(given);
  bitshift::Options out;
  if (known.memory_limit) out.memory = known.memory_limit;
  if (known.op_limit) out.operations = known.op_limit;
  if (known.isa) out.isa = known.isa;
  out.threads = known.threads;
  constexpr std::array<const char *, 4> tunes = {"", "auto", "off", "force"};  // by bs_tune
  if (known.tune < 0 || known.tune >= static_cast<int>(tunes.size()))
    throw bitshift::UsageError("tune is " + std::to_string(known.tune) + "; allowed are the values of bs_tune");
  out.tune = tunes[static_cast<std::size_t>(known.tune)];
  return out;
}

// Loads from what `open` gives, which is called with exceptions still to be caught.
template <class Open>
bs_status load(Open &&open, const bs_options *options, bs_model **model) noexcept {
  return guarded([&] {
    auto loaded = std::make_unique<bs_model>();
    loaded->model = std::make_unique<bitshift::Model>(open(), options_of(options));
    *model = loaded.release();
  });
}

bs_status run(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
              const size_t *output_bytes, std::vector<bitshift::Event> *events) noexcept {
  if (!model) return failed(BS_BAD_CALL, "null pointer");
  const size_t in = model->model->inputs().size(), out = model->model->outputs().size();
  if ((in && (!inputs || !input_bytes)) || (out && (!outputs || !output_bytes))) return failed(BS_BAD_CALL, "null pointer");
  return guarded([&] {
    std::vector<bitshift::Buffer> from;
    std::vector<bitshift::MutableBuffer> to;
    for (size_t i = 0; i < in; i++) from.push_back({inputs[i], input_bytes[i]});
    for (size_t i = 0; i < out; i++) to.push_back({outputs[i], output_bytes[i]});
    model->model->run(batch, from, to, events);
  });
}

}  // namespace

extern "C" {

bs_status bs_model_load_memory(const void *data, size_t size, const bs_options *options, bs_model **model) {
  if (!model || (!data && size)) return failed(BS_BAD_CALL, "null pointer");
  *model = nullptr;
  return load([&] { return bitshift::ModelBytes(static_cast<const std::uint8_t *>(data), size); }, options, model);
}

bs_status bs_model_load(const char *path, const bs_options *options, bs_model **model) {
  if (!path || !model) return failed(BS_BAD_CALL, "null pointer");
  *model = nullptr;
  const bs_status status = load([&] { return bitshift::ModelBytes(path); }, options, model);
  if (status == BS_OK || status == BS_IO) return status;
  return guarded([&] { last_error() = std::string(path) + ": " + last_error(); }) == BS_OK ? status : BS_NO_MEMORY;
}

size_t bs_input_count(const bs_model *model) { return model ? model->model->inputs().size() : 0; }

size_t bs_output_count(const bs_model *model) { return model ? model->model->outputs().size() : 0; }

bs_status bs_input_info(const bs_model *model, size_t index, bs_value_info *info) {
  return model ? info_of(model->model->inputs(), index, info) : failed(BS_BAD_CALL, "null pointer");
}

bs_status bs_output_info(const bs_model *model, size_t index, bs_value_info *info) {
  return model ? info_of(model->model->outputs(), index, info) : failed(BS_BAD_CALL, "null pointer");
}

bs_status bs_input_range(const bs_model *model, size_t index, int32_t *lo, int32_t *hi) {
  if (!model || !lo || !hi || index >= model->model->ranges().size()) return failed(BS_BAD_CALL, "no such input, or a null pointer");
  const bitshift::Range range = model->model->ranges()[index];
  *lo = static_cast<int32_t>(range.lo);
  *hi = static_cast<int32_t>(range.hi);
  return BS_OK;
}

const char *bs_isa(const bs_model *model) { return model ? model->model->isa().c_str() : ""; }

int32_t bs_threads(const bs_model *model) { return model ? model->model->threads() : 0; }

size_t bs_arena_bytes(const bs_model *model) { return model ? model->model->arena_bytes() : 0; }

bs_status bs_run(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                 const size_t *output_bytes) {
  return run(model, batch, inputs, input_bytes, outputs, output_bytes, nullptr);
}

bs_status bs_run_profiled(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                          const size_t *output_bytes, void (*on_event)(void *user, const bs_event *event), void *user) {
  if (!on_event) return failed(BS_BAD_CALL, "null pointer");
  std::vector<bitshift::Event> events;
  const bs_status status = run(model, batch, inputs, input_bytes, outputs, output_bytes, &events);
  if (status != BS_OK) return status;
  for (const bitshift::Event &e : events) {
    const bs_event event = {static_cast<size_t>(e.step),   e.phase, e.thread, static_cast<size_t>(e.samples), static_cast<uint64_t>(e.begin),
                            static_cast<uint64_t>(e.end)};
    on_event(user, &event);
  }
  return BS_OK;
}

size_t bs_step_count(const bs_model *model) { return model ? model->model->steps().size() : 0; }

bs_status bs_step_info(const bs_model *model, size_t index, bs_step *step) {
  if (!model || !step || index >= model->model->steps().size()) return failed(BS_BAD_CALL, "no such step, or a null pointer");
  const bitshift::StepInfo &s = model->model->steps()[index];
  *step = {s.name.c_str(), s.op.c_str(), s.source.c_str(), s.kernel.c_str(), s.isa.c_str(), s.operations, s.in_bytes, s.out_bytes, s.weight_bytes};
  return BS_OK;
}

const char *bs_build_features(void) { return BUILT_AVX512 BUILT_AVX512VL BUILT_AVXVNNI BUILT_AVX2 BUILT_NEON "portable"; }

const char *bs_features(void) {
  const char *found = "portable";  // what is left without memory for the list
  guarded([&] {
    static const std::string words = [] {
      std::string out;
      for (const bitshift::simd::Isa &isa : bitshift::simd::isas()) out += std::string(isa.name) + " ";
      return out + "portable";
    }();
    found = words.c_str();
  });
  return found;
}

const char *bs_last_error(void) { return last_error().c_str(); }

const char *bs_version(void) { return BITSHIFT_VERSION; }

void bs_free(bs_model *model) { delete model; }

}  // extern "C"
