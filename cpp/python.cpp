// The Python module bitshift._engine: a thin skin over Model. Only this file knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "src/error.h"
#include "src/model.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// A C-contiguous array in the memory of this process. Arguments of these types are bound with noconvert: nanobind would
// otherwise convert silently, and an int16 array would come out wrapped around.
using Input = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::c_contig, nb::device::cpu>;

bool has_dtype(const nb::dlpack::dtype &found, bsk_dtype wanted) {
  const auto code = static_cast<nb::dlpack::dtype_code>(found.code);
  if (found.lanes != 1 || found.bits != bsk_dtype_size(wanted) * 8) return false;
  if (wanted == BSK_F32) return code == nb::dlpack::dtype_code::Float;
  return code == (wanted == BSK_U8 ? nb::dlpack::dtype_code::UInt : nb::dlpack::dtype_code::Int);
}

// Bytes of `array`, which must hold N samples of `value`; sets or compares `batch`.
template <class Array>
std::size_t check_array(const Array &array, const bitshift::Value &value, std::int64_t &batch) {
  const std::string name = bitshift::quoted(value.name);
  if (!has_dtype(array.dtype(), value.type.dtype()))
    throw nb::type_error((name + " has another dtype than " + value.type.text() + " is stored in").c_str());
  bool fits = array.ndim() == value.shape.size() + 1;
  for (std::size_t i = 0; fits && i < value.shape.size(); i++) fits = static_cast<std::int64_t>(array.shape(i + 1)) == value.shape[i];
  if (!fits) throw nb::value_error((name + " must have the shape (N, *" + bitshift::shape_text(value.shape) + ")").c_str());
  const auto found = static_cast<std::int64_t>(array.shape(0));
  if (batch >= 0 && found != batch) throw nb::value_error((name + " holds another number of samples than the other arrays").c_str());
  batch = found;
  return array.nbytes();
}

// The item as an array, without any conversion or copy.
template <class Array>
Array array_of(nb::handle item, const bitshift::Value &value) {
  Array array;
  if (!nb::try_cast<Array>(item, array, false))
    throw nb::type_error((bitshift::quoted(value.name) + " must be a C-contiguous numpy array").c_str());
  return array;
}

void run(const bitshift::Model &model, nb::list inputs, nb::list outputs) {
  if (inputs.size() != model.inputs().size() || outputs.size() != model.outputs().size())
    throw nb::value_error("one array for each input and each output is needed");
  std::int64_t batch = -1;
  std::vector<Input> in;
  std::vector<Output> out;
  std::vector<bitshift::Buffer> from;
  std::vector<bitshift::MutableBuffer> to;
  for (std::size_t i = 0; i < inputs.size(); i++) {
    in.push_back(array_of<Input>(inputs[i], model.inputs()[i]));
    const std::size_t bytes = check_array(in.back(), model.inputs()[i], batch);
    from.push_back({in.back().data(), bytes});
  }
  for (std::size_t i = 0; i < outputs.size(); i++) {
    out.push_back(array_of<Output>(outputs[i], model.outputs()[i]));
    const std::size_t bytes = check_array(out.back(), model.outputs()[i], batch);
    to.push_back({out.back().data(), bytes});
  }
  nb::gil_scoped_release released;
  model.run(static_cast<std::size_t>(batch), from, to);
}

std::vector<std::string> names(const std::vector<bitshift::Value> &values) {
  std::vector<std::string> out;
  for (const bitshift::Value &value : values) out.push_back(value.name);
  return out;
}

}  // namespace

NB_MODULE(_engine, m) {
  m.doc() = "The compiled engine; use bitshift.load, which wraps it.";
  nb::exception<bitshift::ModelFileError>(m, "EngineFileError", PyExc_ValueError);
  nb::exception<bitshift::UsageError>(m, "EngineUsageError", PyExc_ValueError);
  nb::class_<bitshift::Model>(m, "Model", "A checked model that any number of threads may run at once.")
      .def(
          "__init__",
          [](bitshift::Model *self, nb::bytes data, std::uint64_t memory_limit, std::uint64_t op_limit) {
            const auto *begin = static_cast<const std::uint8_t *>(data.data());
            const std::size_t size = data.size();
            nb::gil_scoped_release released;
            new (self) bitshift::Model({begin, size}, {memory_limit, op_limit});
          },
          "data"_a, nb::kw_only(), "memory_limit"_a, "op_limit"_a,
          "The model in the bytes of a model file.\n\nEngineFileError: the file breaks a rule or a bound. EngineUsageError: a limit.")
      .def_prop_ro("inputs", [](const bitshift::Model &self) { return names(self.inputs()); }, "Names, in the order of run().")
      .def_prop_ro("outputs", [](const bitshift::Model &self) { return names(self.outputs()); }, "Names, in the order of run().")
      .def_prop_ro("arena_bytes", &bitshift::Model::arena_bytes, "Bytes of activations and scratch memory of one running thread.")
      .def("run", &run, "inputs"_a.noconvert(), "outputs"_a.noconvert(),
           "Run arrays (N, *shape), writing to the arrays in `outputs`.\n\nInputs are read where they lie; nothing is converted.");
}
