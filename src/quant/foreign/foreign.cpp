// Which program wrote a file, and what its layers share.
#include "quant/foreign/foreign.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "aerogel/error.h"
#include "core/finite.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/foreign/comfy.h"
#include "quant/foreign/packed_integers.h"
#include "quant/layer_arrays.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 2> kPrefixes = {"model.diffusion_model.", "diffusion_model."};

// Some rows of an array whose rows lie one after the other.
Tensor rows_of(const Tensor& matrix, std::int64_t first, std::int64_t count) {
    if (!matrix.defined()) return {};
    Shape shape = matrix.shape();
    const std::size_t row = matrix.bytes() / static_cast<std::size_t>(shape[0]);
    shape[0] = count;
    Tensor part(matrix.dtype(), shape);
    const auto* from = static_cast<const std::byte*>(matrix.data()) + row * static_cast<std::size_t>(first);
    std::memcpy(part.mutable_data(), from, part.bytes());
    return part;
}

void check_finite(const SafetensorsFile& file, const std::string& name, const Tensor& values) {
    const std::string problem = finite_problem(name, values);
    if (!problem.empty())
        throw InvalidArgument(fmt::format("[quantize] {}: {}", file.path().string(), problem));
}

Tensor read_bias(const SafetensorsFile& file, const ForeignLayer& layer) {
    const std::string name = layer.prefix + ".bias";
    if (!file.contains(name)) return {};
    const Tensor bias = file.tensor(name);
    if (is_model_dtype(bias.dtype()) && bias.shape() == Shape{layer.n}) return bias.to(DType::f32);
    throw InvalidArgument(fmt::format("[quantize] {}: '{}' must be f32, bf16 or f16 [{}], got {}",
                                      file.path().string(), name, layer.n, bias.describe()));
}

}  // namespace

std::string ForeignLayer::name() const {
    for (const std::string_view start : kPrefixes)
        if (prefix.starts_with(start)) return prefix.substr(start.size());
    return prefix;
}

std::string unmarked_problem(const TensorInfo& info) {
    const bool eight = info.dtype == DType::f8_e4m3 || info.dtype == DType::f8_e5m2;
    if (!eight && (info.dtype != DType::i8 || info.shape.size() < 2)) return {};
    return fmt::format("'{}' {}{} is of no layer that the file says is quantized: its scale is not known",
                       info.name, to_string(info.dtype), to_string(info.shape));
}

ForeignCheckpoint foreign_checkpoint(const SafetensorsFile& file) {
    ForeignCheckpoint checkpoint = comfy_checkpoint(file);
    return checkpoint ? checkpoint : packed_checkpoint(file);
}

QuantizedLinearWeights read_foreign(const SafetensorsFile& file, const ForeignLayer& layer) {
    if (!layer.read) {
        throw Unsupported(
            fmt::format("[quantize] {}: '{}' has the format {}, which is not supported; there are: {}",
                        file.path().string(), layer.prefix, layer.format, comfy_formats()));
    }
    QuantizedLinearWeights weights = layer.read(file);
    weights.bias = read_bias(file, layer);
    for (const std::string& tensor : layer.tensors) weights.stored_bytes += file.info(tensor).bytes();
    if (weights.bias.defined()) weights.stored_bytes += file.info(layer.prefix + ".bias").bytes();
    check_finite(file, layer.tensors.front(), weights.weight.data);
    watch_file(weights, file, layer.tensors);
    file.check_intact();
    try {
        check_layer(weights);
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(
            fmt::format("[quantize] {}: layer {}: {}", file.path().string(), layer.prefix, error.what()));
    }
    return weights;
}

QuantizedLinearWeights rows_of(const QuantizedLinearWeights& layer, std::int64_t first, std::int64_t count) {
    QuantizedLinearWeights part = layer;
    part.weight.rows = count;
    for (Tensor QuantizedTensor::*array : {&QuantizedTensor::data, &QuantizedTensor::scale,
                                           &QuantizedTensor::offset, &QuantizedTensor::dual_scale})
        part.weight.*array = rows_of(layer.weight.*array, first, count);
    part.bias = rows_of(layer.bias, first, count);
    part.check_intact = nullptr;
    const auto rows = static_cast<std::size_t>(layer.weight.rows);
    part.stored_bytes = layer.stored_bytes / rows * static_cast<std::size_t>(count);
    return part;
}

}  // namespace aerogel
