// How a quantized attention of a model runs in a step.
#pragma once

#include <optional>

#include "aerogel/quantized_attention.h"
#include "aerogel/wan.h"

namespace aerogel {

/// The options of quantized_attention() for this step, or nullopt for float. A policy's registered steps
/// decide for every quantized attention, its default for MXFP4 ones only. The options point into
/// `quantization`.
std::optional<QuantizedAttentionOptions> attention_options(
    const std::optional<AttentionQuantization>& quantization, const WanStep& step);

}  // namespace aerogel
