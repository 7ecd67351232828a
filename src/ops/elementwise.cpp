// Chooses the elementwise kernels once per process.
#include "ops/elementwise.h"

#include "base/thread_pool.h"
#include "ops/dispatch.h"

namespace aerogel {
namespace {

const ElementwiseKernels& choose_elementwise() {
    const auto kernels = elementwise_kernels();
    std::vector<Candidate> candidates;
    for (const auto& kernel : kernels) candidates.push_back({kernel.name, kernel.level});
    return kernels[choose_kernel("elementwise", "float32 rows", candidates,
                                 [](std::size_t) { return std::string(); })];
}

}  // namespace

const ElementwiseKernels& chosen_elementwise() {
    static const ElementwiseKernels& chosen = choose_elementwise();
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
