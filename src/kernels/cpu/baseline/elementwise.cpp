// The shared loops, compiled for any x86-64 (SSE2).
#include "kernels/cpu/baseline/kernels.h"

#include "kernels/cpu/baseline/vector.h"
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/group_norm_loops.h"
#include "kernels/plain_elementwise.h"

namespace aerogel {
namespace {

void norm(const NormArgs& args) noexcept {
    run_norm<Sse2>(args);
}

void activation(const ActivationArgs& args) noexcept {
    run_activation<Sse2>(args);
}

void gated(const GatedArgs& args) noexcept {
    run_gated<Sse2>(args);
}

void rope(const RopeArgs& args) noexcept {
    run_rope<Sse2>(args);
}

void residual(const ResidualArgs& args) noexcept {
    run_residual<Sse2>(args);
}

void group_norm(const GroupNormArgs& args) noexcept {
    run_group_norm<Sse2>(args);
}

void softmax(const SoftmaxArgs& args) noexcept {
    run_softmax<Sse2>(args);
}

}  // namespace

constexpr ElementwiseKernels baseline::kElementwise = {"cpu.baseline.elementwise",
                                                       norm,
                                                       activation,
                                                       gated,
                                                       rope,
                                                       residual,
                                                       plain::combine,
                                                       plain::copy,
                                                       plain::match_norms,
                                                       plain::all_finite,
                                                       group_norm,
                                                       softmax,
                                                       plain::clamp};

}  // namespace aerogel
