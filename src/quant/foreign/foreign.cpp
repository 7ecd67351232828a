// Which program wrote a file, and what its layers share.
#include "quant/foreign/foreign.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <utility>

#include "aerogel/error.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/foreign/comfy.h"
#include "quant/foreign/packed_integers.h"
#include "quant/layer_arrays.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 2> kPrefixes = {"model.diffusion_model.", "diffusion_model."};

// Some rows of a matrix whose rows lie one after the other.
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
    part.bias = Tensor();
    const auto rows = static_cast<std::size_t>(layer.weight.rows);
    part.stored_bytes = layer.stored_bytes / rows * static_cast<std::size_t>(count);
    return part;
}

}  // namespace aerogel
