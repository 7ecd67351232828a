// The shared loops, compiled for any x86-64 (SSE2).
#include "kernels/cpu/baseline/kernels.h"

#include "kernels/cpu/baseline/vector.h"
#include "kernels/cpu/elementwise_loops.h"

namespace aerogel {
namespace {

void norm(const NormArgs& args) noexcept {
    run_norm<Sse2>(args);
}

void activation(ActivationFunction function, const float* x, float* y, std::int64_t count) noexcept {
    run_activation<Sse2>(function, x, y, count);
}

void rope(const RopeArgs& args) noexcept {
    run_rope<Sse2>(args);
}

void residual(const ResidualArgs& args) noexcept {
    run_residual<Sse2>(args);
}

}  // namespace

constexpr ElementwiseKernels baseline::kElementwise = {"cpu.baseline.elementwise", norm, activation, rope,
                                                       residual};

}  // namespace aerogel
