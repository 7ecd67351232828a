// The shared loops, compiled for AVX2.
#include "kernels/cpu/avx2/kernels.h"

#include "kernels/cpu/avx2/vector.h"
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/group_norm_loops.h"
#include "kernels/plain_elementwise.h"

namespace aerogel {
namespace {

void norm(const NormArgs& args) noexcept {
    run_norm<Avx2>(args);
}

void activation(const ActivationArgs& args) noexcept {
    run_activation<Avx2>(args);
}

void gated(const GatedArgs& args) noexcept {
    run_gated<Avx2>(args);
}

void rope(const RopeArgs& args) noexcept {
    run_rope<Avx2>(args);
}

void residual(const ResidualArgs& args) noexcept {
    run_residual<Avx2>(args);
}

void group_norm(const GroupNormArgs& args) noexcept {
    run_group_norm<Avx2>(args);
}

void softmax(const SoftmaxArgs& args) noexcept {
    run_softmax<Avx2>(args);
}

}  // namespace

constexpr ElementwiseKernels avx2::kElementwise = {"cpu.avx2.elementwise",
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
