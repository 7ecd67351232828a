// Refusals of the CPU's attention kernels.
#include "kernels/cpu/attention_limits.h"

namespace aerogel {

std::string takes_bf16(const AttentionProblem& problem) {
    if (problem.biased) return "a bias of scores is not supported";
    return problem.dtype == DType::bf16 ? "" : "dtype must be bf16";
}

std::string takes_up_to_256(const AttentionProblem& problem) {
    return problem.head_dim <= 256 ? takes_all_keys(problem) : "head_dim must be at most 256";
}

}  // namespace aerogel
