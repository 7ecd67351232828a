// The step's say in quantized attention.
#include "model/attention_steps.h"

namespace aerogel {
namespace {

std::optional<AttentionFormat> format_in(const AttentionQuantization& quantization, const WanStep& step) {
    if (step.timestep_policy == nullptr) return quantization.format;
    const AttentionStrategy strategy = step.timestep_policy->attention(step.context.timestep_index);
    if (!strategy.registered && quantization.format != AttentionFormat::mxfp4) return quantization.format;
    if (strategy.name == "FLOAT") return std::nullopt;
    return strategy.name == "FP8" ? AttentionFormat::fp8 : AttentionFormat::mxfp4;
}

}  // namespace

std::optional<QuantizedAttentionOptions> attention_options(
    const std::optional<AttentionQuantization>& quantization, const WanStep& step) {
    if (!quantization) return std::nullopt;
    const auto format = format_in(*quantization, step);
    if (!format) return std::nullopt;
    QuantizedAttentionOptions options;
    options.format = *format;
    // The float formats are to give what their files were made for; int8 has no such model to follow.
    options.smooth_k = *format == AttentionFormat::int8;
    if (quantization->q_rotation.defined()) {
        options.q_rotation = quantization->q_rotation;
        options.k_rotation = quantization->k_rotation;
    }
    if (*format == AttentionFormat::int8 && quantization->scales) options.scales = &*quantization->scales;
    return options;
}

}  // namespace aerogel
