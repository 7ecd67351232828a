// The ordered list of attention kernels, and why each refuses what it refuses.
#include "kernels/attention.h"

#include <array>

#include "kernels/cpu/amx/attention.h"
#include "kernels/cpu/avx2/attention.h"
#include "kernels/cpu/avx512/attention.h"
#include "kernels/cpu/baseline/attention.h"
#include "kernels/reference/attention.h"

namespace aerogel {
namespace {

std::string takes_all(const AttentionProblem&) {
    return {};
}

std::string takes_bf16(const AttentionProblem& problem) {
    return problem.dtype == DType::bf16 ? "" : "dtype must be bf16";
}

}  // namespace

std::string AttentionProblem::describe() const {
    std::string text = "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads) +
                       " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len) +
                       " head_dim=" + std::to_string(head_dim) + " dtype=" + std::string(to_string(dtype));
    if (masked) text += " mask=" + std::to_string(block_q) + "x" + std::to_string(block_k);
    if (causal) text += " causal";
    return text;
}

std::span<const AttentionKernel> attention_kernels() {
    static const std::array<AttentionKernel, 5> kKernels = {{
        {"cpu.amx.bf16_attention", CpuLevel::amx, takes_bf16, amx::attention_workspace, amx::attention, true},
        {"cpu.avx512.attention", CpuLevel::avx512, takes_all, avx512::attention_workspace, avx512::attention},
        {"cpu.avx2.attention", CpuLevel::avx2, takes_all, avx2::attention_workspace, avx2::attention},
        {"cpu.baseline.attention", CpuLevel::baseline, takes_all, baseline::attention_workspace,
         baseline::attention},
        {"reference.attention", CpuLevel::baseline, takes_all, reference::attention_workspace,
         reference::attention},
    }};
    return kKernels;
}

}  // namespace aerogel
