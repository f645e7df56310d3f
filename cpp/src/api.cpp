// The C API: exceptions end here.
#include <memory>
#include <new>
#include <string>

#include "bitshift/bitshift.h"
#include "error.h"
#include "model.h"

#ifndef BITSHIFT_VERSION
#define BITSHIFT_VERSION "unknown"
#endif

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

// Loads from what `open` gives, which is called with exceptions still to be caught.
template <class Open>
bs_status load(Open &&open, const bs_options *options, bs_model **model) noexcept {
  bitshift::Options chosen;
  if (options && options->memory_limit) chosen.memory = options->memory_limit;
  if (options && options->op_limit) chosen.operations = options->op_limit;
  return guarded([&] {
    auto loaded = std::make_unique<bs_model>();
    loaded->model = std::make_unique<bitshift::Model>(open(), chosen);
    *model = loaded.release();
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

size_t bs_arena_bytes(const bs_model *model) { return model ? model->model->arena_bytes() : 0; }

bs_status bs_run(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes, void *const *outputs,
                 const size_t *output_bytes) {
  if (!model) return failed(BS_BAD_CALL, "null pointer");
  const size_t in = model->model->inputs().size(), out = model->model->outputs().size();
  if ((in && (!inputs || !input_bytes)) || (out && (!outputs || !output_bytes))) return failed(BS_BAD_CALL, "null pointer");
  return guarded([&] {
    std::vector<bitshift::Buffer> from;
    std::vector<bitshift::MutableBuffer> to;
    for (size_t i = 0; i < in; i++) from.push_back({inputs[i], input_bytes[i]});
    for (size_t i = 0; i < out; i++) to.push_back({outputs[i], output_bytes[i]});
    model->model->run(batch, from, to);
  });
}

const char *bs_last_error(void) { return last_error().c_str(); }

const char *bs_version(void) { return BITSHIFT_VERSION; }

void bs_free(bs_model *model) { delete model; }

}  // extern "C"
