// How a quantized attention of a model runs in a step.
#pragma once

#include <optional>

#include "aerogel/attention.h"
#include "aerogel/timestep.h"

namespace aerogel {

/// The options of attention() for this step (-1: unknown): format none without a quantization, its format
/// without a policy. They point into `quantization`.
AttentionOptions attention_options(const std::optional<AttentionQuantization>& quantization,
                                   const TimestepPolicyConfig* policy, int timestep_index);

}  // namespace aerogel
