// Choosing the stored values of one layer.
#include "quant/float_layer.h"

#include <fmt/format.h>

#include <utility>

#include "aerogel/error.h"
#include "formats/format.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/low_rank.h"
#include "quant/quant_type.h"

namespace aerogel {
namespace {

constexpr std::int64_t kDefaultRank = 32;  // of msModelSlim's svd_res
constexpr std::int64_t kSignSeed = 1234;   // that of the format's q_rot and k_rot

// Takes the low-rank part off and rotates the rest. Values are rounded to the type in which the scheme keeps
// its scales.
Tensor transformed(const FloatLayer& layer, const SchemeRow& scheme, const LayerChoices& choices,
                   QuantizedLinearWeights& weights) {
    const bool wide = scheme.float32 || choices.weight.group_size != 0;
    const DType type = wide ? DType::f32 : layer.weight.dtype();
    Tensor weight = layer.weight;
    if (choices.low_rank != 0) {
        LowRank split = split_low_rank(weight, {.rank = choices.low_rank});
        weights.low_rank_l1 = std::move(split.l1);
        weights.low_rank_l2 = std::move(split.l2);
        weight = split.residual.to(type);
    }
    if (choices.rotation_block != 0) {
        const std::int64_t columns = weight.dim(1);
        const Rotation rotation(columns, choices.rotation_block, kSignSeed);
        weights.rotation = rotation.signs().reshaped({columns / rotation.block(), rotation.block()});
        weight = rotation.rotated_inputs(weight).to(type);
    }
    return weight;
}

}  // namespace

std::string quant_type_of(const SchemeRow& scheme, const LayerChoices& choices) {
    return join_quant_type({std::string(scheme.name), choices.low_rank != 0, choices.rotation_block != 0});
}

const SchemeRow& scheme_with_choices(std::string_view name, LayerChoices& choices) {
    const QuantType type = split_quant_type(name);
    if (type.low_rank && choices.low_rank == 0) choices.low_rank = kDefaultRank;
    if (type.rotated && choices.rotation_block == 0) choices.rotation_block = -1;
    return scheme_row("quantize", type.low_rank || type.rotated ? std::string_view(type.scheme) : name);
}

void check_choices(const SchemeRow& scheme, const LayerChoices& choices) {
    algorithm_row(choices.algorithm, scheme.weight);
    const bool offsets =
        scheme.activation == Activation::none && format_row(scheme.weight).integers != nullptr;
    if (choices.weight.group_size != 0 && !scheme.groups) {
        throw InvalidArgument(fmt::format("[quantize] {} has no groups of a size to choose", scheme.name));
    }
    if (!choices.weight.symmetric && !offsets) {
        throw InvalidArgument(fmt::format("[quantize] {} has symmetric weights only", scheme.name));
    }
    if (choices.rotation_block != 0 && scheme.activation == Activation::per_tensor) {
        throw InvalidArgument(
            fmt::format("[quantize] {} has calibrated scales of inputs that are not rotated: rotation is for "
                        "schemes that scale activations when they arrive, or not at all",
                        scheme.name));
    }
    if (choices.low_rank < 0) {
        throw InvalidArgument(
            fmt::format("[quantize] the rank must not be negative, got {}", choices.low_rank));
    }
}

QuantizedLinearWeights quantize_float(const FloatLayer& layer, const SchemeRow& scheme,
                                      const LayerChoices& choices) {
    QuantizedLinearWeights weights;
    weights.scheme = scheme.name;
    if (layer.bias.defined()) weights.bias = layer.bias.to(DType::f32);
    // Algorithms see arrays only, so the layer's name is put in front of what they refuse.
    try {
        const AlgorithmRow& algorithm = algorithm_row(choices.algorithm, scheme.weight);
        weights.weight = algorithm.quantize(transformed(layer, scheme, choices, weights), choices.weight);
    } catch (const InvalidArgument& error) {
        if (layer.name.empty()) throw;
        throw InvalidArgument(fmt::format("[quantize] {}: {}", layer.name, error.what()));
    }
    return weights;
}

}  // namespace aerogel
