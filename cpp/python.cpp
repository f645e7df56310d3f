// The Python module bitshift._engine: a thin skin over Model. Only this file knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/border.h"
#include "python_train.h"
#include "src/error.h"
#include "src/model.h"
#include "src/probe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// Whatever lends its memory: an object with __dlpack__ (numpy, torch, ...) or a buffer. Imported without any conversion, which
// nanobind would do silently (an int16 array would come out wrapped around); what does not fit is refused by name.
using Input = nb::ndarray<nb::ro>;
using Output = nb::ndarray<>;

// How the elements of an array stand for those of a value.
enum class Form { stored, f32, f64 };

std::string dtype_text(const nb::dlpack::dtype &dtype) {
  const auto code = static_cast<nb::dlpack::dtype_code>(dtype.code);
  const char *kind = code == nb::dlpack::dtype_code::Int     ? "int"
                     : code == nb::dlpack::dtype_code::UInt  ? "uint"
                     : code == nb::dlpack::dtype_code::Float ? "float"
                     : code == nb::dlpack::dtype_code::Bfloat ? "bfloat"
                     : code == nb::dlpack::dtype_code::Bool   ? "bool"
                                                              : "an unknown dtype of ";
  return kind + std::to_string(dtype.bits) + (dtype.lanes == 1 ? "" : "x" + std::to_string(dtype.lanes));
}

nb::dlpack::dtype dtype_of(const bitshift::ValueType &type) {
  const bsk_dtype dtype = type.dtype();
  const auto code = dtype == BSK_F32  ? nb::dlpack::dtype_code::Float
                    : dtype == BSK_U8 ? nb::dlpack::dtype_code::UInt
                                      : nb::dlpack::dtype_code::Int;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bsk_dtype_size(dtype) * 8), 1};
}

template <class Array>
Form form_of(const Array &array, const bitshift::Value &value, const std::string &name, bool values) {
  const nb::dlpack::dtype found = array.dtype();
  if (found == dtype_of(value.type)) return Form::stored;
  if (values && found == nb::dtype<float>()) return Form::f32;
  if (values && found == nb::dtype<double>() && Array::ReadOnly) return Form::f64;
  const char *others = !values ? "" : Array::ReadOnly ? ", or float32 or float64 (values)" : ", or float32 (values)";
  throw nb::type_error((name + " has the dtype " + dtype_text(found) + "; " + value.type.text() + " is stored as dtype " +
                        dtype_text(dtype_of(value.type)) + others)
                           .c_str());
}

template <class Array>
void check_layout(const Array &array, const std::string &name) {
  if (array.device_type() != nb::device::cpu::value)
    throw nb::type_error((name + " is not in the memory of the CPU (DLPack device " + std::to_string(array.device_type()) +
                          "); copy it there first")
                             .c_str());
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.size() > 1 && array.stride(i) != expected)
      throw nb::type_error((name + " must be C-contiguous; make it so with numpy.ascontiguousarray or torch's contiguous()").c_str());
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
}

// One array of a call: N samples of `value`, in one form. `batch` is set, or compared if it is set already.
template <class Array>
struct Lent {
  Array array;
  Form form = Form::stored;
  std::size_t elements = 0;

  Lent(nb::handle item, const bitshift::Value &value, bool values, std::int64_t &batch) {
    const std::string name = (Array::ReadOnly ? "input " : "output ") + bitshift::quoted(value.name);
    if (!nb::try_cast<Array>(item, array, false))
      throw nb::type_error((name + " must be a C-contiguous numpy array or lend its memory by DLPack (__dlpack__)" +
                            (Array::ReadOnly ? "" : ", writable") + ": found " +
                            nb::type_name(item.type()).c_str())
                               .c_str());
    form = form_of(array, value, name, values);
    check_layout(array, name);
    bool fits = array.ndim() == value.shape.size() + 1;
    for (std::size_t i = 0; fits && i < value.shape.size(); i++) fits = static_cast<std::int64_t>(array.shape(i + 1)) == value.shape[i];
    if (!fits) throw nb::value_error((name + " must have the shape (N, *" + bitshift::shape_text(value.shape) + ")").c_str());
    const auto found = static_cast<std::int64_t>(array.shape(0));
    if (batch >= 0 && found != batch) throw nb::value_error((name + " holds another number of samples than the other arrays").c_str());
    batch = found;
    elements = array.size();
    const std::size_t item_bytes = array.itemsize();
    if (form != Form::stored && reinterpret_cast<std::uintptr_t>(array.data()) % item_bytes)
      throw nb::type_error((name + " lies at an address that is not a multiple of " + std::to_string(item_bytes) + "; copy it first").c_str());
  }
};

// Memory for a converted array; vectors would fill it with zeros first.
struct Converted {
  std::unique_ptr<std::uint32_t[]> memory;
  std::size_t bytes = 0;

  void reserve(std::size_t elements, const bitshift::ValueType &type) {
    bytes = elements * bsk_dtype_size(type.dtype());
    memory.reset(new std::uint32_t[bytes / 4 + 1]);
  }
};

void to_stored(const Lent<Input> &from, const bitshift::ValueType &type, Converted &to) {
  to.reserve(from.elements, type);
  if (type.real) {  // float64 values of a float32 input
    const auto *x = static_cast<const double *>(from.array.data());
    std::transform(x, x + from.elements, reinterpret_cast<float *>(to.memory.get()), [](double v) { return static_cast<float>(v); });
    return;
  }
  const double factor = std::ldexp(1.0, type.frac);
  const auto lo = static_cast<std::int32_t>(type.lo()), hi = static_cast<std::int32_t>(type.hi());
  if (from.form == Form::f32)
    bsk_border_quantize_f32(factor, lo, hi, static_cast<const float *>(from.array.data()), to.memory.get(), type.dtype(), from.elements);
  else
    bsk_border_quantize_f64(factor, lo, hi, static_cast<const double *>(from.array.data()), to.memory.get(), type.dtype(), from.elements);
}

// With `values`, fixed-point inputs may be floats, which are quantised, and fixed-point outputs float32, which then get
// q * 2^-frac; without, every array holds what the graph computes with.
void run(const bitshift::Model &model, nb::handle inputs, nb::handle outputs, bool values, std::vector<bitshift::Event> *events) {
  const auto &in = model.inputs(), &out = model.outputs();
  if (nb::len(inputs) != in.size() || nb::len(outputs) != out.size())
    throw nb::value_error("one array for each input and each output is needed");
  std::int64_t batch = -1;
  std::vector<Lent<Input>> from;
  std::vector<Lent<Output>> to;
  from.reserve(in.size());
  to.reserve(out.size());
  for (std::size_t i = 0; i < in.size(); i++) from.emplace_back(inputs[i], in[i], values, batch);
  for (std::size_t i = 0; i < out.size(); i++) to.emplace_back(outputs[i], out[i], values, batch);
  // Where the caller's arrays lie; Model::run sees the copies of those that are converted.
  std::vector<bitshift::Buffer> given;
  std::vector<bitshift::MutableBuffer> taken;
  for (const Lent<Input> &x : from) given.push_back({x.array.data(), x.array.nbytes()});
  for (const Lent<Output> &y : to) taken.push_back({y.array.data(), y.array.nbytes()});
  model.check_apart(given, taken);
  nb::gil_scoped_release released;
  std::vector<Converted> before(in.size()), after(out.size());
  std::vector<bitshift::Buffer> read;
  std::vector<bitshift::MutableBuffer> written;
  for (std::size_t i = 0; i < in.size(); i++) {
    if (from[i].form == Form::stored) {
      read.push_back({from[i].array.data(), from[i].array.nbytes()});
    } else {
      to_stored(from[i], in[i].type, before[i]);
      read.push_back({before[i].memory.get(), before[i].bytes});
    }
  }
  for (std::size_t i = 0; i < out.size(); i++) {
    if (to[i].form == Form::stored) {
      written.push_back({to[i].array.data(), to[i].array.nbytes()});
    } else {
      after[i].reserve(to[i].elements, out[i].type);
      written.push_back({after[i].memory.get(), after[i].bytes});
    }
  }
  model.run(static_cast<std::size_t>(batch), read, written, events);
  for (std::size_t i = 0; i < out.size(); i++)
    if (to[i].form != Form::stored)
      bsk_dequantize(std::ldexp(1.0, -out[i].type.frac), after[i].memory.get(), out[i].type.dtype(), static_cast<float *>(to[i].array.data()),
                     to[i].elements);
}

// ---- one layer, called with values on a grid (nn/native.py) ----

// Contiguous arrays of numpy; nn/native.py makes them, so a mismatch is our own mistake and nanobind's TypeError says enough.
template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

nb::object grid(const Values &x, int frac) {
  const bool wide = x.dtype() == nb::dtype<double>();
  if (frac < -63 || frac > 63 || (!wide && x.dtype() != nb::dtype<float>())) return nb::none();
  const double factor = std::ldexp(1.0, frac);
  std::int32_t lo = 0, hi = 0;
  int whole = 0;
  {
    nb::gil_scoped_release released;
    whole = wide ? bsk_border_grid_f64(factor, static_cast<const double *>(x.data()), x.size(), &lo, &hi)
                 : bsk_border_grid_f32(factor, static_cast<const float *>(x.data()), x.size(), &lo, &hi);
  }
  if (!whole) return nb::none();
  return nb::make_tuple(lo, hi);
}

void round_to_grid(const Values &x, int frac, std::int32_t lo, std::int32_t hi, bool half_up, const Array<float> &y) {
  const bool wide = x.dtype() == nb::dtype<double>();
  if (frac < -63 || frac > 63 || x.size() != y.size() || (!wide && x.dtype() != nb::dtype<float>()))
    throw nb::value_error("round_to_grid: arrays or frac do not fit");
  nb::gil_scoped_release released;
  const double factor = std::ldexp(1.0, frac), half = half_up ? 0.5 : 0.0;
  if (wide)
    bsk_border_round_f64(factor, half, lo, hi, static_cast<const double *>(x.data()), y.data(), y.size());
  else
    bsk_border_round_f32(factor, half, lo, hi, static_cast<const float *>(x.data()), y.data(), y.size());
}

// A model of one conv or linear node from bytes to int32 sums, with what is done to the sums of each channel.
void run_layer(const bitshift::Model &model, const Values &x, int frac, const Array<const double> &mult, const Array<const double> &offset,
               const Output &y) {
  const bitshift::Value &in = model.inputs().at(0), &out = model.outputs().at(0);
  const auto channels = static_cast<std::size_t>(out.shape.at(0)), pixels = static_cast<std::size_t>(out.size) / channels;
  const auto size = static_cast<std::size_t>(in.size), batch = x.size() / size;
  const bool wide = y.dtype() == nb::dtype<double>(), wide_in = x.dtype() == nb::dtype<double>();
  if (in.type.real || out.type.dtype() != BSK_I32 || x.size() != batch * size || y.size() != batch * static_cast<std::size_t>(out.size) ||
      mult.size() != channels || offset.size() != channels || (!wide && y.dtype() != nb::dtype<float>()) ||
      (!wide_in && x.dtype() != nb::dtype<float>()))
    throw nb::value_error("run_layer: arrays do not fit the model");
  nb::gil_scoped_release released;
  const double factor = std::ldexp(1.0, frac);
  const auto lo = static_cast<std::int32_t>(in.type.lo()), hi = static_cast<std::int32_t>(in.type.hi());
  // Sums of a chunk stay in the cache between the run that writes them and the loop that reads them; a thread keeps the memory.
  constexpr std::size_t kChunkBytes = std::size_t{1} << 21;
  const std::size_t sums = static_cast<std::size_t>(out.size);
  const std::size_t chunk = std::max<std::size_t>(1, std::min(batch, kChunkBytes / (size + sums * 4)));
  thread_local std::vector<std::int32_t> kept;
  std::vector<std::int32_t> large;
  const std::size_t words = chunk * sums + (chunk * size) / 4 + 1;
  std::vector<std::int32_t> &memory = words * 4 <= 2 * kChunkBytes ? kept : large;
  if (memory.size() < words) memory.resize(words);
  std::int32_t *acc = memory.data();
  void *bytes = memory.data() + chunk * sums;
  for (std::size_t at = 0; at < batch; at += chunk) {
    const std::size_t n = std::min(chunk, batch - at);
    if (wide_in)
      bsk_border_quantize_f64(factor, lo, hi, static_cast<const double *>(x.data()) + at * size, bytes, in.type.dtype(), n * size);
    else
      bsk_border_quantize_f32(factor, lo, hi, static_cast<const float *>(x.data()) + at * size, bytes, in.type.dtype(), n * size);
    model.run(n, {{bytes, n * size}}, {{acc, n * sums * 4}});
    const std::size_t first = at * sums;
    if (pixels == 1) {
      for (std::size_t i = 0; i < n; i++)
        if (wide)
          bsk_border_scale_row_f64(mult.data(), offset.data(), acc + i * sums, static_cast<double *>(y.data()) + first + i * sums, channels);
        else
          bsk_border_scale_row_f32(mult.data(), offset.data(), acc + i * sums, static_cast<float *>(y.data()) + first + i * sums, channels);
    } else {
      for (std::size_t i = 0; i < n * channels; i++) {
        const double a = mult.data()[i % channels], b = offset.data()[i % channels];
        if (wide)
          bsk_border_scale_f64(a, b, acc + i * pixels, static_cast<double *>(y.data()) + first + i * pixels, pixels);
        else
          bsk_border_scale_f32(a, b, acc + i * pixels, static_cast<float *>(y.data()) + first + i * pixels, pixels);
      }
    }
  }
}

nb::list traced(const bitshift::Model &model, nb::handle inputs, nb::handle outputs, bool values) {
  std::vector<bitshift::Event> events;
  run(model, inputs, outputs, values, &events);
  nb::list out;
  for (const bitshift::Event &e : events) out.append(nb::make_tuple(e.step, e.phase, e.thread, e.samples, e.begin, e.end));
  return out;
}

nb::list steps(const bitshift::Model &model) {
  nb::list out;
  for (const bitshift::StepInfo &s : model.steps())
    out.append(nb::make_tuple(s.name, s.op, s.source, s.kernel, s.isa, static_cast<std::uint64_t>(s.operations), s.weight_bytes, s.in_bytes,
                              s.out_bytes));
  return out;
}

nb::list describe(const std::vector<bitshift::Value> &values) {
  nb::list out;
  for (const bitshift::Value &value : values) out.append(nb::make_tuple(value.name, nb::tuple(nb::cast(value.shape)), value.type.text()));
  return out;
}

std::vector<std::string> names(const std::vector<bitshift::Value> &values) {
  std::vector<std::string> out;
  for (const bitshift::Value &value : values) out.push_back(value.name);
  return out;
}

bitshift::Options options(std::uint64_t memory_limit, std::uint64_t op_limit, int threads, const std::string &isa, const std::string &tune) {
  bitshift::Options out;
  out.memory = memory_limit;
  out.operations = op_limit;
  out.threads = threads;
  out.isa = isa;
  out.tune = tune;
  return out;
}

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "The compiled engine; use bitshift.load, which wraps it.";
  nb::exception<bitshift::ModelFileError>(m, "EngineFileError", PyExc_ValueError);
  nb::exception<bitshift::UsageError>(m, "EngineUsageError", PyExc_ValueError);
  nb::exception<bitshift::IoError>(m, "EngineIoError", PyExc_OSError);
  nb::class_<bitshift::Model>(m, "Model", "A checked model that any number of threads may run at once.")
      .def(
          "__init__",
          [](bitshift::Model *self, nb::bytes data, std::uint64_t memory_limit, std::uint64_t op_limit, int threads, const std::string &isa,
             const std::string &tune) {
            const auto *begin = static_cast<const std::uint8_t *>(data.data());
            const std::size_t size = data.size();
            nb::gil_scoped_release released;
            new (self) bitshift::Model({begin, size}, options(memory_limit, op_limit, threads, isa, tune));
          },
          "data"_a, nb::kw_only(), "memory_limit"_a, "op_limit"_a, "threads"_a = 0, "isa"_a = "", "tune"_a = "",
          "The model in the bytes of a model file.\n\nEngineFileError: the file breaks a rule or a bound. EngineUsageError: a limit.")
      .def_static(
          "open",
          [](nb::bytes path, std::uint64_t memory_limit, std::uint64_t op_limit, int threads, const std::string &isa,
             const std::string &tune) {
            const std::string name(path.c_str(), path.size());
            nb::gil_scoped_release released;
            return new bitshift::Model(bitshift::ModelBytes(name), options(memory_limit, op_limit, threads, isa, tune));
          },
          "path"_a, nb::kw_only(), "memory_limit"_a, "op_limit"_a, "threads"_a = 0, "isa"_a = "", "tune"_a = "",
          "The model in a file, which is mapped while it is being loaded.\n\nEngineIoError: the file cannot be read.")
      .def_prop_ro("inputs", [](const bitshift::Model &self) { return names(self.inputs()); }, "Names, in the order of run().")
      .def_prop_ro("outputs", [](const bitshift::Model &self) { return names(self.outputs()); }, "Names, in the order of run().")
      .def("ends", [](const bitshift::Model &self) { return nb::make_tuple(describe(self.inputs()), describe(self.outputs())); },
           "(name, shape, type) of each input and of each output.")
      .def_prop_ro("arena_bytes", &bitshift::Model::arena_bytes, "Bytes of activations and scratch memory of one running thread.")
      .def_prop_ro("isa", [](const bitshift::Model &self) { return self.isa(); }, "The instruction set that it was loaded for.")
      .def_prop_ro("threads", &bitshift::Model::threads, "Threads that a run may use.")
      .def("steps", &steps, "(name, op, source, kernel, isa, operations, weight, input and output bytes) of each step.")
      .def("trace", &traced, "inputs"_a, "outputs"_a, nb::kw_only(), "values"_a = false,
           "run(), returning (step, phase, thread, samples, begin, end) of each thread's work, in nanoseconds.")
      .def(
          "run",
          [](const bitshift::Model &self, nb::handle inputs, nb::handle outputs, bool values) { run(self, inputs, outputs, values, nullptr); },
          "inputs"_a, "outputs"_a, nb::kw_only(), "values"_a = false,
           "Run arrays (N, *shape), writing to the arrays in `outputs`.\n\nInputs are read where they lie; nothing is converted, except "
           "with `values` floats given for fixed point, and fixed point into float32 outputs.")
      .def("run_layer", &run_layer, "x"_a.noconvert(), "frac"_a, "mult"_a.noconvert(), "offset"_a.noconvert(), "y"_a.noconvert(),
           "A model of one layer from bytes to int32 sums: y = sum(x * 2**frac) * mult + offset, per channel.");
  m.def("round_to_grid", &round_to_grid, "x"_a.noconvert(), "frac"_a, "lo"_a, "hi"_a, "half_up"_a, "y"_a.noconvert(),
        "y = clamp(floor(x * 2**frac + (1/2 or 0)), lo, hi) * 2**-frac; NaN gives 0.");
  m.def("grid", &grid, "x"_a.noconvert(), "frac"_a,
        "The smallest and largest of the integers x * 2**frac; None if one is no integer or beyond 1024.");
  m.def(
      "probe_dot", [](const std::string &isa, int threads, double seconds) {
        nb::gil_scoped_release released;
        return bitshift::probe_dot(isa, threads, seconds);
      },
      "isa"_a, "threads"_a, "seconds"_a, "Operations per second of 8-bit dot products in registers; 0 where `isa` is missing.");
  m.def(
      "probe_read", [](std::size_t bytes, int threads, double seconds) {
        nb::gil_scoped_release released;
        return bitshift::probe_read(bytes, threads, seconds);
      },
      "bytes"_a, "threads"_a, "seconds"_a, "Bytes per second read from a buffer of `bytes` bytes.");
  bind_train(m);
}
