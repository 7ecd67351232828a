// What all families share: inputs on the model's device, and the step's policy.
#include "aerogel/transformer.h"

#include <utility>

namespace aerogel {

void Transformer::set_parts(Parts parts) {
    config_ = std::move(parts.config);
    set_layers({std::move(parts.family), std::move(parts.linears), std::move(parts.attentions),
                parts.other_bytes, parts.device});
}

Tensor Transformer::forward(const TransformerInput& given, const TransformerStep& wanted) const {
    TransformerInput input = given;
    for (Tensor* tensor :
         {&input.hidden_states, &input.encoder_hidden_states, &input.encoder_hidden_states_image})
        if (tensor->defined()) *tensor = tensor->to(device());
    for (Tensor* tensor : {&input.timestep, &input.guidance})
        if (tensor->defined()) *tensor = tensor->to(Device::cpu);
    if (wanted.timestep_policy == nullptr) return run(input, wanted);
    TransformerStep step = wanted;
    step.context = step.timestep_policy->context(step.context.timestep_index);
    step.context.call = wanted.context.call;
    return run(input, step);
}

}  // namespace aerogel
