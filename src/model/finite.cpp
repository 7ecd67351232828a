// The search for the weight to blame happens only once something is wrong. Norms, tables and biases were
// looked at when the model was loaded (Checkpoint).
#include "model/finite.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "core/finite.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

std::string weight_problem(std::span<const LinearSlot* const> layers) {
    for (const LinearSlot* slot : layers) {
        const auto* linear = dynamic_cast<const FloatLinear*>(slot->layer.get());
        if (linear == nullptr) continue;
        std::string problem = finite_problem(slot->name + ".weight", linear->weight());
        if (!problem.empty()) return problem;
    }
    return {};
}

void check_input(std::string_view family, const char* name, const Tensor& tensor, const Context& context) {
    if (!tensor.defined() || all_finite(tensor, context)) return;
    throw InvalidArgument(
        fmt::format("[{}] the input {}", family, finite_problem(name, tensor.to(Device::cpu))));
}

}  // namespace

void check_finite_input(std::string_view family, const TransformerInput& input, const Context& context) {
    check_input(family, "hidden_states", input.hidden_states, context);
    check_input(family, "timestep", input.timestep, context);
    check_input(family, "encoder_hidden_states", input.encoder_hidden_states, context);
    check_input(family, "encoder_hidden_states_image", input.encoder_hidden_states_image, context);
    check_input(family, "guidance", input.guidance, context);
}

void FiniteChecks::operator()(const std::string& what, const TensorView& values,
                              std::span<const LinearSlot* const> layers) const {
    if (all_finite(values, step.context.call)) return;
    const int index = step.context.timestep_index;
    const std::string cause = weight_problem(layers);
    throw InvalidArgument(fmt::format(
        "[{}] {} is not finite{}: {}", family, what, index < 0 ? "" : fmt::format(" in step {}", index),
        cause.empty() ? "inputs and weights are finite, but the values grow too large" : cause));
}

}  // namespace aerogel
