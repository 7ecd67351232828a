// The step's say in quantized attention.
#include "quant/attention_steps.h"

namespace aerogel {

AttentionOptions attention_options(const std::optional<AttentionQuantization>& quantization,
                                   const TimestepPolicyConfig* policy, int timestep_index) {
    AttentionOptions options;
    if (!quantization) return options;
    options.format = policy == nullptr ? quantization->format
                                       : policy->attention_format(quantization->format, timestep_index);
    if (options.format == AttentionFormat::none) return options;
    // The float formats are to give what their files were made for; int8 has no such model to follow.
    options.smooth_k = options.format == AttentionFormat::int8;
    if (quantization->q_rotation.defined()) {
        options.q_rotation = quantization->q_rotation;
        options.k_rotation = quantization->k_rotation;
    }
    if (options.format == AttentionFormat::int8 && quantization->scales)
        options.scales = &*quantization->scales;
    return options;
}

}  // namespace aerogel
