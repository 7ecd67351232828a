// From a float layer to what its quantized form stores: the step that files, models in memory and Python
// share.
#pragma once

#include <string>

#include "aerogel/quantized_linear.h"
#include "quant/algorithms/algorithm.h"
#include "quant/schemes.h"

namespace aerogel {

/// A float layer of a model; bias may be undefined.
struct FloatLayer {
    std::string name;
    Tensor weight;  ///< f32, bf16 or f16 [n,k]
    Tensor bias;
};

/// How the stored values of layers are chosen.
struct LayerChoices {
    std::string algorithm = "minmax";
    WeightOptions weight;  ///< groups and offsets, for schemes that have them
};

/// InvalidArgument when the scheme has no such algorithm, groups or offsets.
void check_choices(const SchemeRow& scheme, const LayerChoices& choices);

/// The layer's weights without static scales. InvalidArgument, naming the layer, when its weight is not
/// finite or groups do not divide its columns.
QuantizedLinearWeights quantize_float(const FloatLayer& layer, const SchemeRow& scheme,
                                      const LayerChoices& choices);

}  // namespace aerogel
