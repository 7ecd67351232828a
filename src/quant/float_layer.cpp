// Choosing the stored values of one layer.
#include "quant/float_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "aerogel/error.h"
#include "core/finite.h"
#include "core/text.h"
#include "formats/format.h"
#include "ops/hadamard.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/low_rank.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/output_error.h"
#include "quant/algorithms/smoothing.h"
#include "quant/layer_arrays.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

constexpr std::int64_t kDefaultRank = 32;  // of msModelSlim's svd_res
constexpr std::int64_t kSignSeed = 1234;   // that of the format's q_rot and k_rot
constexpr std::int64_t kSmallestGroup = 32;

// W diag(s), rounded to `type`, with 1 / s as it will be stored: in the type of the model.
Tensor smoothed(const FloatLayer& layer, const SchemeRow& scheme, const LayerChoices& choices,
                QuantizedLinearWeights& weights) {
    const SmoothingRow& row = *find_smoothing(choices.smoothing);
    const Tensor s = row.scales(layer.weight, layer.inputs, scheme.weight, choices.weight);
    weights.mul_scale = mul_scale_of(s).to(layer.weight.dtype()).to(DType::f32);
    return scale_columns(layer.weight.to(DType::f32), mul_scale_of(weights.mul_scale));
}

// Smooths, takes the low-rank part off (in the model's type) and rotates the rest. Values are rounded to the
// type in which the scheme keeps its scales.
Tensor transformed(const FloatLayer& layer, const SchemeRow& scheme, const LayerChoices& choices,
                   QuantizedLinearWeights& weights) {
    const bool wide = scheme.float32 || choices.float32 || choices.weight.group_size != 0;
    const DType type = wide ? DType::f32 : layer.weight.dtype();
    Tensor weight = choices.float32 ? layer.weight.to(DType::f32) : layer.weight;
    if (!choices.smoothing.empty()) weight = smoothed(layer, scheme, choices, weights).to(type);
    if (choices.low_rank != 0) {
        LowRank split = split_low_rank(weight, {.rank = choices.low_rank, .type = layer.weight.dtype()});
        weights.low_rank_l1 = std::move(split.l1);
        weights.low_rank_l2 = std::move(split.l2);
        weight = split.residual.to(type);
    }
    if (choices.rotation_block != 0) {
        const std::int64_t columns = weight.dim(1);
        const RotationKind kind = choices.rotation_kind;
        const Rotation rotation(columns, {kind, choices.rotation_block},
                                kind == RotationKind::hadamard ? kSignSeed : -1);
        weights.rotation = rotation.signs().reshaped({columns / rotation.block(), rotation.block()});
        weights.rotation_kind = kind;
        weight = rotation.rotated_inputs(weight).to(type);
    }
    return weight;
}

void check_smoothing(const std::string& name, const SchemeRow& scheme) {
    if (name.empty()) return;
    // The search of AWQ quantizes to grids of integers.
    if (name == "awq" && format_row(scheme.weight).integers == nullptr) {
        throw InvalidArgument(fmt::format("[quantize] awq is for int8 and int4 weights, {} has {}",
                                          scheme.name, to_string(scheme.weight)));
    }
    if (find_smoothing(name) != nullptr) return;
    std::string names;
    for (const SmoothingRow& row : smoothings()) {
        names += (names.empty() ? "" : ", ") + std::string(row.name);
    }
    throw InvalidArgument(fmt::format("[quantize] there is no smoothing '{}'; there are: {}", name, names));
}

void check_finite(const std::string& layer, const char* tensor, const Tensor& values) {
    const std::string name = layer.empty() ? tensor : layer + "." + tensor;
    const std::string problem = finite_problem(name, values);
    if (!problem.empty()) throw InvalidArgument("[quantize] " + problem);
}

// The weight of the file in just the form that is asked for: quantizing what it means could only add errors.
bool suits(const FloatLayer& layer, const SchemeRow& scheme, const LayerChoices& choices) {
    return layer.as_stored && layer.as_stored->format == scheme.weight &&
           layer.as_stored->group_size == choices.weight.group_size && choices.weight.symmetric &&
           !choices.weight.narrow && choices.algorithm == "minmax" && choices.smoothing.empty() &&
           choices.rotation_block == 0 && choices.low_rank == 0;
}

QuantizedTensor quantized(const Tensor& weight, const FloatLayer& layer, const SchemeRow& scheme,
                          const LayerChoices& choices, const QuantizedLinearWeights& weights) {
    if (suits(layer, scheme, choices)) return *layer.as_stored;
    if (const InputAlgorithmRow* row = find_input_algorithm(choices.algorithm, scheme.weight)) {
        return row->quantize(weight, transformed_inputs(layer.inputs, weights), choices.weight);
    }
    return algorithm_row(choices.algorithm, scheme.weight).quantize(weight, choices.weight);
}

}  // namespace

std::string quant_type_of(const SchemeRow& scheme, const LayerChoices& choices) {
    const auto rotation = choices.rotation_block != 0 ? std::optional(choices.rotation_kind) : std::nullopt;
    return join_quant_type({std::string(scheme.name), choices.low_rank != 0, rotation});
}

const SchemeRow& scheme_with_choices(std::string_view name, LayerChoices& choices) {
    const QuantType type = split_quant_type(name);
    if (type.low_rank && choices.low_rank == 0) choices.low_rank = kDefaultRank;
    if (type.rotation && choices.rotation_block != 0 && choices.rotation_kind != *type.rotation) {
        throw InvalidArgument(fmt::format("[quantize] {} is rotated by {}, but the rotation asked for is {}",
                                          name, to_string(*type.rotation), to_string(choices.rotation_kind)));
    }
    if (type.rotation && choices.rotation_block == 0) {
        choices.rotation_block = -1;
        choices.rotation_kind = *type.rotation;
    }
    return scheme_row("quantize", type.low_rank || type.rotation ? std::string_view(type.scheme) : name);
}

std::int64_t group_size_of(const SchemeRow& scheme, std::int64_t chosen, std::int64_t columns) {
    if (chosen != kSchemeGroups) return chosen;
    for (std::int64_t size = scheme.group_size; size >= kSmallestGroup; size /= 2) {
        if (columns % size == 0 && columns != size) return size;
    }
    return 0;
}

std::size_t quantized_bytes(const SchemeRow& scheme, const Shape& shape) {
    const std::int64_t group = group_size_of(scheme, kSchemeGroups, shape[1]);
    const std::int64_t groups = group == 0 ? 1 : shape[1] / group;
    const std::int64_t values = scheme.weight == Format::int4 ? (shape[1] + 1) / 2 : shape[1];
    return static_cast<std::size_t>(shape[0]) * static_cast<std::size_t>(values + 4 * groups);
}

bool needs_inputs(const SchemeRow& scheme, const LayerChoices& choices) {
    const bool moved = !choices.smoothing.empty() || choices.rotation_block != 0;
    return !choices.smoothing.empty() || find_input_algorithm(choices.algorithm, scheme.weight) != nullptr ||
           (moved && scheme.activation == Activation::per_tensor);
}

Tensor transformed_inputs(const Tensor& inputs, const QuantizedLinearWeights& weights) {
    Tensor x = inputs.to(DType::f32);
    if (weights.mul_scale.defined()) x = scale_columns(x, weights.mul_scale);
    if (!weights.rotation.defined()) return x;
    Tensor rotated(DType::f32, x.shape());
    hadamard_rows(x, rotated, rotation_of(weights), weights.rotation.reshaped({x.dim(1)}));
    return rotated;
}

void check_choices(const SchemeRow& scheme, const LayerChoices& choices) {
    if (find_input_algorithm(choices.algorithm, scheme.weight) == nullptr) {
        algorithm_row(choices.algorithm, scheme.weight);
    }
    check_smoothing(choices.smoothing, scheme);
    const bool offsets =
        scheme.activation == Activation::none && format_row(scheme.weight).integers != nullptr;
    if (choices.weight.group_size < kSchemeGroups) {
        throw InvalidArgument(fmt::format(
            "[quantize] the group size must be 0 (the whole row), {} (the scheme's) or positive, got {}",
            kSchemeGroups, choices.weight.group_size));
    }
    if (choices.weight.group_size > 0 && !scheme.groups) {
        throw InvalidArgument(fmt::format("[quantize] {} has no groups of a size to choose", scheme.name));
    }
    if (!choices.weight.symmetric && !offsets) {
        throw InvalidArgument(fmt::format("[quantize] {} has symmetric weights only", scheme.name));
    }
    if (choices.low_rank < 0) {
        throw InvalidArgument(
            fmt::format("[quantize] the rank must not be negative, got {}", choices.low_rank));
    }
}

void check_fit(const std::string& layer, const Shape& shape, const LayerChoices& choices) {
    const auto refuse = [&](const std::string& what) {
        throw InvalidArgument(fmt::format("[quantize] {}: {} (weight {})", layer, what, to_string(shape)));
    };
    const std::int64_t group = choices.weight.group_size, largest = std::min(shape[0], shape[1]);
    if (group > 0 && shape[1] % group != 0)
        refuse(fmt::format("the group size must divide the {} columns, got {}", shape[1], group));
    if (choices.low_rank > largest)
        refuse(fmt::format("the rank must be at most {}, got {}", largest, choices.low_rank));
    if (choices.rotation_block == 0) return;
    try {
        rotation_block(shape[1], {choices.rotation_kind, choices.rotation_block});
    } catch (const InvalidArgument& error) {
        refuse(error.what());
    }
}

void check_float_layer(const std::string& name, const TensorInfo& weight, const TensorInfo* bias) {
    const Shape& shape = weight.shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || !is_model_dtype(weight.dtype)) {
        throw InvalidArgument(
            fmt::format("[quantize] {}: the weight must be f32, bf16 or f16 with at least one row and one "
                        "column, got {}{}",
                        in_quotes(name), to_string(weight.dtype), to_string(shape)));
    }
    if (bias == nullptr || (bias->shape == Shape{shape[0]} && is_model_dtype(bias->dtype))) return;
    throw InvalidArgument(fmt::format("[quantize] {}: the bias must be f32, bf16 or f16 [{}], got {}{}",
                                      in_quotes(name), shape[0], to_string(bias->dtype),
                                      to_string(bias->shape)));
}

QuantizedLinearWeights quantize_float(const FloatLayer& layer, const SchemeRow& scheme,
                                      const LayerChoices& wanted) {
    const TensorInfo weight_info = {"", layer.weight.dtype(), layer.weight.shape()};
    const TensorInfo bias_info = {"", layer.bias.dtype(), layer.bias.shape()};
    check_float_layer(layer.name, weight_info, layer.bias.defined() ? &bias_info : nullptr);
    LayerChoices choices = wanted;
    choices.weight.group_size = group_size_of(scheme, wanted.weight.group_size, layer.weight.dim(1));
    QuantizedLinearWeights weights;
    weights.scheme = scheme.name;
    if (needs_inputs(scheme, choices) && !layer.inputs.defined()) {
        throw InvalidArgument(fmt::format("[quantize] {}: {} needs recorded inputs of the layer", layer.name,
                                          choices.smoothing.empty() ? choices.algorithm : choices.smoothing));
    }
    check_finite(layer.name, "weight", layer.weight);
    if (layer.bias.defined()) check_finite(layer.name, "bias", layer.bias);
    if (layer.bias.defined()) weights.bias = layer.bias.to(DType::f32);
    // Algorithms see arrays only, so the layer's name is put in front of what they refuse.
    try {
        const Tensor weight = transformed(layer, scheme, choices, weights);
        weights.weight = quantized(weight, layer, scheme, choices, weights);
    } catch (const InvalidArgument& error) {
        if (layer.name.empty()) throw;
        throw InvalidArgument(fmt::format("[quantize] {}: {}", layer.name, error.what()));
    }
    return weights;
}

}  // namespace aerogel
