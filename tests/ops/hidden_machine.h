// A machine of the tests' own: the reference kernels, on memory that the host cannot touch. What runs on it
// as on the CPU has no forgotten access of the host to the device's memory.
#pragma once

#include "core/hidden_memory.h"
#include "kernels/reference/kernels.h"
#include "ops/machines.h"

namespace aerogel::testing {

template <const LinearKernel* kOn>
LinearKernel hidden_linear() {
    LinearKernel kernel = *kOn;
    kernel.name = "hidden.linear";
    kernel.pack = [](const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        const Unhidden open;
        kOn->pack(problem, weight, packed);
    };
    kernel.run = [](const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Unhidden open;
        kOn->run(problem, args);
    };
    return kernel;
}

template <const AttentionKernel* kOn>
AttentionKernel hidden_attention(std::string_view name) {
    AttentionKernel kernel = *kOn;
    kernel.name = name;
    kernel.run = [](const AttentionProblem& problem, const AttentionCall& call) noexcept {
        const Unhidden open;
        kOn->run(problem, call);
    };
    if (kernel.find_scales != nullptr) {
        kernel.find_scales = [](const AttentionProblem& problem, const AttentionCall& call) noexcept {
            const Unhidden open;
            kOn->find_scales(problem, call);
        };
    }
    return kernel;
}

inline ElementwiseKernels hidden_elementwise() {
    constexpr const ElementwiseKernels* kOn = &reference::kElementwise;
    ElementwiseKernels kernels = *kOn;
    kernels.name = "hidden.elementwise";
    kernels.norm = [](const NormArgs& args) noexcept {
        const Unhidden open;
        kOn->norm(args);
    };
    kernels.activation = [](const ActivationArgs& args) noexcept {
        const Unhidden open;
        kOn->activation(args);
    };
    kernels.gated = [](const GatedArgs& args) noexcept {
        const Unhidden open;
        kOn->gated(args);
    };
    kernels.rope = [](const RopeArgs& args) noexcept {
        const Unhidden open;
        kOn->rope(args);
    };
    kernels.residual = [](const ResidualArgs& args) noexcept {
        const Unhidden open;
        kOn->residual(args);
    };
    kernels.combine = [](const CombineArgs& args) noexcept {
        const Unhidden open;
        kOn->combine(args);
    };
    kernels.copy = [](const CopyArgs& args) noexcept {
        const Unhidden open;
        kOn->copy(args);
    };
    kernels.match_norms = [](const MatchNormsArgs& args) noexcept {
        const Unhidden open;
        kOn->match_norms(args);
    };
    kernels.all_finite = [](const FiniteArgs& args) noexcept {
        const Unhidden open;
        return kOn->all_finite(args);
    };
    kernels.group_norm = [](const GroupNormArgs& args) noexcept {
        const Unhidden open;
        kOn->group_norm(args);
    };
    kernels.softmax = [](const SoftmaxArgs& args) noexcept {
        const Unhidden open;
        kOn->softmax(args);
    };
    kernels.clamp = [](const ClampArgs& args) noexcept {
        const Unhidden open;
        kOn->clamp(args);
    };
    return kernels;
}

/// A member of the planning kernels, with the memory open.
template <auto kMember>
struct HiddenPlanning;
template <typename Args, void (*PlanningKernels::*kMember)(const Args&) noexcept>
struct HiddenPlanning<kMember> {
    static void run(const Args& args) noexcept {
        const Unhidden open;
        (reference::kPlanning.*kMember)(args);
    }
};

inline PlanningKernels hidden_planning() {
    using Kernels = PlanningKernels;
    return {.name = "hidden.planning",
            .cell_means = HiddenPlanning<&Kernels::cell_means>::run,
            .mean_products = HiddenPlanning<&Kernels::mean_products>::run,
            .keep_best = HiddenPlanning<&Kernels::keep_best>::run,
            .place_cells = HiddenPlanning<&Kernels::place_cells>::run,
            .block_lists = HiddenPlanning<&Kernels::block_lists>::run,
            .sample_recalls = HiddenPlanning<&Kernels::sample_recalls>::run,
            .sample_errors = HiddenPlanning<&Kernels::sample_errors>::run,
            .fan_out = HiddenPlanning<&Kernels::fan_out>::run,
            .kept_scores = HiddenPlanning<&Kernels::kept_scores>::run,
            .strided_products = nullptr,
            .block_shares = HiddenPlanning<&Kernels::block_shares>::run,
            .keep_shares = HiddenPlanning<&Kernels::keep_shares>::run};
}

inline ConvolutionKernel hidden_convolution() {
    constexpr const ConvolutionKernel* kOn = &reference::kConvolution;
    ConvolutionKernel kernel = *kOn;
    kernel.name = "hidden.convolution";
    kernel.pack = [](const ConvolutionProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        const Unhidden open;
        kOn->pack(problem, weight, packed);
    };
    kernel.run = [](const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept {
        const Unhidden open;
        kOn->run(problem, args);
    };
    return kernel;
}

inline const HadamardKernel kHiddenHadamard = {"hidden.hadamard",
                                               [](const HadamardArgs& args) noexcept {
                                                   const Unhidden open;
                                                   reference::kHadamard.run(args);
                                               },
                                               true};
inline const LinearKernel kHiddenLinear = hidden_linear<&reference::kLinear>();
inline const AttentionKernel kHiddenAttention = hidden_attention<&reference::kAttention>("hidden.attention");
inline const AttentionKernel kHiddenInt8Attention =
    hidden_attention<&reference::kInt8Attention>("hidden.int8_attention");
inline const AttentionKernel kHiddenRoundedAttention =
    hidden_attention<&reference::kRoundedAttention>("hidden.rounded_attention");
inline const ElementwiseKernels kHiddenElementwise = hidden_elementwise();

inline const MachineRow<LinearKernel> kHiddenLinears[] = {{0, &kHiddenLinear}};
inline const MachineRow<AttentionKernel> kHiddenAttentions[] = {
    {0, &kHiddenAttention}, {0, &kHiddenInt8Attention}, {0, &kHiddenRoundedAttention}};
inline const MachineRow<ElementwiseKernels> kHiddenElementwises[] = {{0, &kHiddenElementwise}};
inline const ConvolutionKernel kHiddenConvolution = hidden_convolution();
inline const MachineRow<ConvolutionKernel> kHiddenConvolutions[] = {{0, &kHiddenConvolution}};
inline const MachineRow<HadamardKernel> kHiddenHadamards[] = {{0, &kHiddenHadamard}};

inline const PlanningKernels kHiddenPlanning = hidden_planning();
inline const MachineRow<PlanningKernels> kHiddenPlannings[] = {{0, &kHiddenPlanning}};

inline const Machine kHiddenMachine = {.why_not = [](Device, int) { return std::string(); },
                                       .linear = kHiddenLinears,
                                       .attention = kHiddenAttentions,
                                       .elementwise = kHiddenElementwises,
                                       .hadamard = kHiddenHadamards,
                                       .convolution = kHiddenConvolutions,
                                       .planning = kHiddenPlannings};

/// As long as it lives, Device::cuda is such a machine.
class HiddenDevice {
  public:
    static constexpr Device kDevice = Device::cuda;

  private:
    GuestMemory memory_{kDevice, kHiddenMemory};
    GuestMachine machine_{kDevice, kHiddenMachine};
};

}  // namespace aerogel::testing
