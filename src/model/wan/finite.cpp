// The search for the weight to blame happens only once something is wrong. Norms, tables and biases were
// looked at when the model was loaded (Checkpoint).
#include "model/wan/finite.h"

#include <fmt/format.h>

#include <initializer_list>

#include "aerogel/error.h"
#include "core/finite.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

std::string weight_problem(const std::string& name, const Linear& layer) {
    const auto* linear = dynamic_cast<const FloatLinear*>(&layer);
    return linear == nullptr ? "" : finite_problem(name + ".weight", linear->weight());
}

std::string weight_problem(std::initializer_list<const LinearSlot*> slots) {
    for (const LinearSlot* slot : slots) {
        if (!*slot) continue;
        std::string problem = weight_problem(slot->name, *slot->layer);
        if (!problem.empty()) return problem;
    }
    return {};
}

[[noreturn]] void fail(const std::string& what, const TransformerStep& step, const std::string& cause) {
    const int index = step.context.timestep_index;
    throw InvalidArgument(
        fmt::format("[wan] {} is not finite{}: {}", what, index < 0 ? "" : fmt::format(" in step {}", index),
                    cause.empty() ? "inputs and weights are finite, but the values grow too large" : cause));
}

void check_input(const char* name, const Tensor& tensor, const Context& context) {
    if (!tensor.defined() || all_finite(tensor, context)) return;
    throw InvalidArgument("[wan] the input " + finite_problem(name, tensor.to(Device::cpu)));
}

}  // namespace

void check_finite_input(const TransformerInput& input, const Context& context) {
    check_input("hidden_states", input.hidden_states, context);
    check_input("timestep", input.timestep, context);
    check_input("encoder_hidden_states", input.encoder_hidden_states, context);
    check_input("encoder_hidden_states_image", input.encoder_hidden_states_image, context);
}

void check_finite_conditions(const WanConditioning& conditions, const WanWeights& weights,
                             const TransformerStep& step) {
    if (!all_finite(conditions.time, step.context.call) ||
        !all_finite(conditions.modulation, step.context.call)) {
        fail("the timestep embedding", step,
             weight_problem({&weights.time_in, &weights.time_out, &weights.time_proj}));
    }
    if (!all_finite(conditions.text, step.context.call)) {
        fail("the text embedding", step, weight_problem({&weights.text_in, &weights.text_out}));
    }
    if (!all_finite(conditions.image, step.context.call)) {
        fail("the image embedding", step, weight_problem({&weights.image.ff_in, &weights.image.ff_out}));
    }
}

void check_finite_patches(const Tensor& hidden, const WanWeights& weights, const TransformerStep& step) {
    if (all_finite(hidden, step.context.call)) return;
    fail("the output of patch_embedding", step, weight_problem("patch_embedding", *weights.patch_embedding));
}

void check_finite_block(const Tensor& hidden, const WanBlockWeights& block, int index,
                        const TransformerStep& step) {
    if (all_finite(hidden, step.context.call)) return;
    const WanAttentionWeights &self = block.attn1, &cross = block.attn2;
    fail(fmt::format("the output of block {}", index), step,
         weight_problem({&self.to_q, &self.to_k, &self.to_v, &self.to_out, &cross.to_q, &cross.to_k,
                         &cross.to_v, &cross.to_out, &cross.add_k, &cross.add_v, &block.ffn_in,
                         &block.ffn_out}));
}

void check_finite_output(const Tensor& video, const WanWeights& weights, const TransformerStep& step) {
    if (!all_finite(video, step.context.call))
        fail("the output of the model", step, weight_problem({&weights.proj_out}));
}

}  // namespace aerogel
