// What all families share: inputs on the model's device, latents joined, and the step's policy.
#include "aerogel/transformer.h"

#include <fmt/format.h>

#include <utility>

#include "aerogel/error.h"
#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

bool are_alike_but_for_channels(const Tensor& a, const Tensor& b) {
    if (!a.defined() || a.dtype() != DType::f32 || b.dtype() != DType::f32) return false;
    if (a.shape().size() != 5 || b.shape().size() != 5) return false;
    Shape shape = b.shape();
    shape[1] = a.dim(1);
    return shape == a.shape();
}

// Along the axis of channels.
Tensor joined_channels(const Tensor& a, const Tensor& b, const Context& context) {
    if (!are_alike_but_for_channels(a, b)) {
        throw InvalidArgument(fmt::format(
            "[transformer] condition must be f32 of the batch and size of hidden_states {}, got {}",
            a.defined() ? a.describe() : "nothing", b.describe()));
    }
    Shape shape = a.shape();
    shape[1] += b.dim(1);
    Tensor joined(DType::f32, shape, a.device());
    const MutableView all = joined;
    const Shape strides = strides_of(all);
    copy(a, part_of(all, 0, a.shape(), strides), context);
    copy(b, part_of(all, a.dim(1) * strides[1], b.shape(), strides), context);
    return joined;
}

}  // namespace

void Transformer::set_parts(Parts parts) {
    config_ = std::move(parts.config);
    set_layers({std::move(parts.family), std::move(parts.linears), std::move(parts.attentions),
                parts.other_bytes, parts.device});
}

Tensor Transformer::forward(const TransformerInput& given, const TransformerStep& wanted) const {
    TransformerInput input = given;
    for (Tensor* tensor : {&input.hidden_states, &input.encoder_hidden_states,
                           &input.encoder_hidden_states_image, &input.condition})
        if (tensor->defined()) *tensor = tensor->to(device());
    if (input.condition.defined()) {
        input.hidden_states = joined_channels(input.hidden_states, input.condition, wanted.context.call);
        input.condition = {};
    }
    for (Tensor* tensor : {&input.timestep, &input.guidance})
        if (tensor->defined()) *tensor = tensor->to(Device::cpu);
    if (wanted.timestep_policy == nullptr) return run(input, wanted);
    TransformerStep step = wanted;
    step.context = step.timestep_policy->context(step.context.timestep_index);
    step.context.call = wanted.context.call;
    return run(input, step);
}

}  // namespace aerogel
