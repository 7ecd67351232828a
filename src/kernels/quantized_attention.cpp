// The ordered list of int8 attention kernels.
#include "kernels/quantized_attention.h"

#include <array>

#include "kernels/cpu/avx2/quantized_attention.h"
#include "kernels/cpu/avx512/quantized_attention.h"
#include "kernels/reference/quantized_attention.h"

namespace aerogel {
namespace {

std::string takes_up_to_256(const AttentionProblem& problem) {
    return problem.head_dim <= 256 ? "" : "head_dim must be at most 256";
}

std::string takes_all(const AttentionProblem&) {
    return {};
}

}  // namespace

std::span<const QuantizedAttentionKernel> quantized_attention_kernels() {
    static const std::array<QuantizedAttentionKernel, 3> kKernels = {{
        {"cpu.avx512.int8_attention", CpuLevel::avx512, kWideWeight, takes_up_to_256,
         avx512::quantized_attention_workspace, avx512::quantized_attention, avx512::attention_scales},
        {"cpu.avx2.int8_attention", CpuLevel::avx2, kNarrowWeight, takes_up_to_256,
         avx2::quantized_attention_workspace, avx2::quantized_attention, avx2::attention_scales},
        {"reference.int8_attention", CpuLevel::baseline, kWideWeight, takes_all,
         reference::quantized_attention_workspace, reference::quantized_attention,
         reference::attention_scales},
    }};
    return kKernels;
}

}  // namespace aerogel
