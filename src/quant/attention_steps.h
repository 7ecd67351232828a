// How a quantized attention of a model runs in a step.
#pragma once

#include <optional>

#include "aerogel/quantized_attention.h"
#include "aerogel/timestep.h"

namespace aerogel {

/// The options of quantized_attention() for this step (-1: unknown), or nullopt for float; without a policy
/// the format decides. The options point into `quantization`.
std::optional<QuantizedAttentionOptions> attention_options(const AttentionQuantization& quantization,
                                                           const TimestepPolicyConfig* policy,
                                                           int timestep_index);

}  // namespace aerogel
