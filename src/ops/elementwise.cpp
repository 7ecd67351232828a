// Chooses the elementwise kernels once per process.
#include "ops/elementwise.h"

#include "base/thread_pool.h"
#include "ops/dispatch.h"

namespace aerogel {

const ElementwiseKernels& chosen_elementwise() {
    static const ElementwiseKernels& chosen =
        choose("elementwise", Device::cpu, &Machine::elementwise, FloatRows{});
    return chosen;
}

void norm(const NormArgs& args) {
    run_operation([&] { chosen_elementwise().norm(args); });
}

void activation(ActivationFunction function, const float* x, float* y, std::int64_t count) {
    run_operation([&] { chosen_elementwise().activation(function, x, y, count); });
}

void rope(const RopeArgs& args) {
    run_operation([&] { chosen_elementwise().rope(args); });
}

void residual(const ResidualArgs& args) {
    run_operation([&] { chosen_elementwise().residual(args); });
}

}  // namespace aerogel
