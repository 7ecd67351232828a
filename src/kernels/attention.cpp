// The ordered list of attention kernels, and why each refuses what it refuses.
#include "kernels/attention.h"

#include <array>

#include "kernels/reference/attention.h"

namespace aerogel {
namespace {

std::string takes_all(const AttentionProblem&) {
    return {};
}

}  // namespace

std::string AttentionProblem::describe() const {
    std::string text = "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads) +
                       " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len) +
                       " head_dim=" + std::to_string(head_dim) + " dtype=" + std::string(to_string(dtype));
    if (masked) text += " mask=" + std::to_string(block_q) + "x" + std::to_string(block_k);
    return text;
}

std::span<const AttentionKernel> attention_kernels() {
    static const std::array<AttentionKernel, 1> kKernels = {{
        {"reference.attention", CpuLevel::baseline, takes_all, reference::attention_workspace,
         reference::attention},
    }};
    return kKernels;
}

}  // namespace aerogel
