// The shared loops, compiled for AVX-512.
#include "kernels/cpu/avx512/kernels.h"

#include "kernels/cpu/avx512/vector.h"
#include "kernels/cpu/elementwise_loops.h"
#include "kernels/cpu/group_norm_loops.h"
#include "kernels/plain_elementwise.h"

namespace aerogel {
namespace {

void norm(const NormArgs& args) noexcept {
    run_norm<Avx512>(args);
}

void activation(const ActivationArgs& args) noexcept {
    run_activation<Avx512>(args);
}

void gated(const GatedArgs& args) noexcept {
    run_gated<Avx512>(args);
}

void rope(const RopeArgs& args) noexcept {
    run_rope<Avx512>(args);
}

void residual(const ResidualArgs& args) noexcept {
    run_residual<Avx512>(args);
}

void group_norm(const GroupNormArgs& args) noexcept {
    run_group_norm<Avx512>(args);
}

void softmax(const SoftmaxArgs& args) noexcept {
    run_softmax<Avx512>(args);
}

}  // namespace

constexpr ElementwiseKernels avx512::kElementwise = {"cpu.avx512.elementwise",
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
