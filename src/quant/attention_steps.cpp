// The step's say in quantized attention.
#include "quant/attention_steps.h"

namespace aerogel {

std::optional<QuantizedAttentionOptions> attention_options(const AttentionQuantization& quantization,
                                                           const TimestepPolicyConfig* policy,
                                                           int timestep_index) {
    const auto format = policy == nullptr ? std::optional(quantization.format)
                                          : policy->attention_format(quantization.format, timestep_index);
    if (!format) return std::nullopt;
    QuantizedAttentionOptions options;
    options.format = *format;
    // The float formats are to give what their files were made for; int8 has no such model to follow.
    options.smooth_k = *format == AttentionFormat::int8;
    if (quantization.q_rotation.defined()) {
        options.q_rotation = quantization.q_rotation;
        options.k_rotation = quantization.k_rotation;
    }
    if (*format == AttentionFormat::int8 && quantization.scales) options.scales = &*quantization.scales;
    return options;
}

}  // namespace aerogel
