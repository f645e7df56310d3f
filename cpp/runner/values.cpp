#include "values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace runner {
namespace {

struct Dtype {
  const char *descr, *word;
  std::size_t bytes;
};

const Dtype &dtype_of(bs_dtype dtype) {
  static const Dtype all[] = {{"|u1", "uint8", 1}, {"|i1", "int8", 1}, {"<i2", "int16", 2}, {"<i4", "int32", 4}, {"<f4", "float32", 4}};
  return all[dtype];
}

std::int64_t integer(bs_dtype dtype, const std::uint8_t *at) {
  std::int16_t narrow;
  std::int32_t wide;
  switch (dtype) {
    case BS_U8: return *at;
    case BS_I8: return static_cast<std::int8_t>(*at);
    case BS_I16: std::memcpy(&narrow, at, 2); return narrow;
    default: std::memcpy(&wide, at, 4); return wide;
  }
}

template <class T>
double real(const std::uint8_t *at) {
  T found;
  std::memcpy(&found, at, sizeof found);
  return static_cast<double>(found);
}

// Little-endian: the low bytes come first.
void put(std::uint8_t *at, std::size_t bytes, std::int64_t v) { std::memcpy(at, &v, bytes); }

std::int64_t lowest(const bs_value_info &info) { return info.is_signed ? -(std::int64_t{1} << (info.bits - 1)) : 0; }
std::int64_t highest(const bs_value_info &info) { return (std::int64_t{1} << (info.is_signed ? info.bits - 1 : info.bits)) - 1; }

// clamp(floor(x * 2^frac + 0.5)) in float64, NaN to 0: the rule of the op `quantize`.
std::int64_t quantize(double x, const bs_value_info &info) {
  const double scaled = std::floor(std::ldexp(x, info.frac) + 0.5);
  if (std::isnan(scaled)) return 0;
  return static_cast<std::int64_t>(std::min(std::max(scaled, static_cast<double>(lowest(info))), static_cast<double>(highest(info))));
}

}  // namespace

std::size_t item_bytes(bs_dtype dtype) { return dtype_of(dtype).bytes; }

std::vector<std::int64_t> shape_of(const bs_value_info &info) { return std::vector<std::int64_t>(info.shape, info.shape + info.axes); }

std::string type_text(const bs_value_info &info) {
  std::string out = info.dtype == BS_F32 ? "f32" : (info.is_signed ? "s" : "u") + std::to_string(info.bits) + "." + std::to_string(info.frac);
  out += " [";
  for (std::int32_t i = 0; i < info.axes; i++) out += (i ? ", " : "") + std::to_string(info.shape[i]);
  return out + "]";
}

std::vector<std::uint8_t> read_input(const std::string &path, const bs_value_info &info, std::size_t &batch) {
  const Dtype &wanted = dtype_of(info.dtype);
  if (!is_npy(path)) {
    std::vector<std::uint8_t> raw = read_file(path);
    if (raw.empty() || raw.size() % info.sample_bytes)
      throw Complaint(path + ": " + std::to_string(raw.size()) + " bytes; a raw file of " + info.name + " holds one or more samples of " +
                      std::to_string(info.sample_bytes) + " bytes (" + wanted.word + ", little-endian). Arrays need a name that ends in .npy");
    batch = raw.size() / info.sample_bytes;
    return raw;
  }
  Array array = read_npy(path);
  const std::vector<std::int64_t> shape = shape_of(info);
  const bool single = array.shape == shape;
  if (!single && (array.shape.size() != shape.size() + 1 || !std::equal(shape.begin(), shape.end(), array.shape.begin() + 1)))
    throw Complaint(path + ": has shape " + tuple_text(array.shape) + "; input " + info.name + " needs " + tuple_text(shape) +
                    ", with the number of samples before it or without");
  batch = single ? 1 : static_cast<std::size_t>(array.shape[0]);
  if (array.descr == wanted.descr) return std::move(array.data);
  if (array.descr != "<f4" && array.descr != "<f8")
    throw Complaint(path + ": has dtype " + array.descr + "; input " + info.name + " (" + type_text(info) + ") needs " +
                    (info.dtype == BS_F32 ? "" : std::string(wanted.descr) + " (its integers) or ") + "<f4 (values)");
  const std::size_t item = array.descr == "<f4" ? 4 : 8, count = array.data.size() / item;
  std::vector<std::uint8_t> out(count * wanted.bytes);
  for (std::size_t i = 0; i < count; i++) {
    const std::uint8_t *at = &array.data[i * item];
    const double x = item == 4 ? real<float>(at) : real<double>(at);
    const auto narrow = static_cast<float>(x);
    if (info.dtype == BS_F32)
      std::memcpy(&out[i * 4], &narrow, 4);
    else
      put(&out[i * wanted.bytes], wanted.bytes, quantize(x, info));
  }
  return out;
}

std::vector<std::uint8_t> random_input(const bs_value_info &info, std::int64_t lo, std::int64_t hi, std::size_t batch, std::mt19937_64 &random) {
  std::vector<std::uint8_t> out(batch * info.sample_bytes);
  const std::size_t item = item_bytes(info.dtype);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i + item <= out.size(); i += item) {
    if (info.dtype == BS_F32) {
      const float x = normal(random);
      std::memcpy(&out[i], &x, 4);
    } else {
      put(&out[i], item, lo + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(hi - lo + 1)));
    }
  }
  return out;
}

double element_of(const bs_value_info &info, const std::uint8_t *data, std::size_t i) {
  const std::uint8_t *at = data + i * item_bytes(info.dtype);
  return info.dtype == BS_F32 ? real<float>(at) : static_cast<double>(integer(info.dtype, at));
}

double value_of(const bs_value_info &info, const std::uint8_t *data, std::size_t i) {
  return std::ldexp(element_of(info, data, i), -info.frac);  // frac is 0 for floats
}

Array output_array(const bs_value_info &info, const std::vector<std::uint8_t> &data, std::size_t batch, bool real) {
  Array out;
  out.shape = shape_of(info);
  out.shape.insert(out.shape.begin(), static_cast<std::int64_t>(batch));
  out.descr = real ? "<f4" : dtype_of(info.dtype).descr;
  out.data = data;
  if (!real || info.dtype == BS_F32) return out;
  const std::size_t count = data.size() / item_bytes(info.dtype);
  out.data.resize(count * 4);
  for (std::size_t i = 0; i < count; i++) {
    const auto x = static_cast<float>(value_of(info, data.data(), i));
    std::memcpy(&out.data[i * 4], &x, 4);
  }
  return out;
}

}  // namespace runner
