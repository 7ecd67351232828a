// Choosing the stored values of one layer.
#include "quant/float_layer.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "formats/format.h"

namespace aerogel {

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
}

QuantizedLinearWeights quantize_float(const FloatLayer& layer, const SchemeRow& scheme,
                                      const LayerChoices& choices) {
    QuantizedLinearWeights weights;
    weights.scheme = scheme.name;
    if (layer.bias.defined()) weights.bias = layer.bias.to(DType::f32);
    // Algorithms see arrays only, so the layer's name is put in front of what they refuse.
    try {
        const AlgorithmRow& algorithm = algorithm_row(choices.algorithm, scheme.weight);
        weights.weight = algorithm.quantize(layer.weight, choices.weight);
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(fmt::format("[quantize] {}: {}", layer.name, error.what()));
    }
    return weights;
}

}  // namespace aerogel
