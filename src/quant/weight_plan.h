// The plan of a model that takes all its weights from one file: layers that the file holds quantized run as
// they are stored, or are quantized anew while they are read.
#pragma once

#include <optional>
#include <string>

#include "aerogel/quantized_linear.h"
#include "quant/model_plan.h"
#include "quant/weight_file.h"

namespace aerogel {

/// The layer "<name>.weight" (and ".bias", if there is one) as the file stores it, where its type is that of
/// a scheme: Q8_0 is W8A16, Q4_0 is W4A16, in groups of 32, layers of a quantized checkpoint are what they
/// are. nullopt where it is not. InvalidArgument for scales that are not finite; errors as WeightFile.
std::optional<QuantizedLinearWeights> layer_as_stored(const WeightFile& file, const std::string& name);

/// One decision per Linear. By default layers run as they are stored; choices.type_of may name another scheme
/// that needs no data, asked with the stored type ("Q4_K"), or "FLOAT". A selection without include means
/// all. InvalidArgument when a weight is missing or has another shape, or a pattern matches nothing.
ModelPlan plan_from_weights(const ModelModules& model, const WeightFile& file, const FileChoices& choices);

/// The arrays of a Linear that the plan quantizes.
QuantizedLinearWeights read_from_weights(const WeightFile& file, const ModelModule& module,
                                         const ModuleDecision& decision);

}  // namespace aerogel
