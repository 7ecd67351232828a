// An attention problem in words, and what kernels of every machine refuse.
#include "kernels/attention.h"

namespace aerogel {

std::string AttentionProblem::describe() const {
    std::string text = "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads);
    if (kv_heads != heads) text += " kv_heads=" + std::to_string(kv_heads);
    text += " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len) +
            " head_dim=" + std::to_string(head_dim) + " dtype=" + std::string(to_string(dtype));
    if (format != AttentionFormat::none) text += " format=" + std::string(to_string(format));
    if (masked) text += " mask=" + std::to_string(block_q) + "x" + std::to_string(block_k);
    if (causal) text += " causal";
    if (biased) text += " bias";
    if (wants_lse) text += " lse";
    if (centroids) text += " centroids";
    if (hides_keys) text += " key_mask";
    return text;
}

std::string takes_all(const AttentionProblem&) {
    return {};
}

std::string takes_no_bias(const AttentionProblem& problem) {
    return problem.biased ? "a bias goes with format none" : "";
}

std::string takes_no_centroids(const AttentionProblem& problem) {
    return problem.centroids ? "centroids of skipped blocks are not supported" : "";
}

std::string takes_all_keys(const AttentionProblem& problem) {
    return problem.causal ? "causal goes with format none" : takes_no_bias(problem);
}

}  // namespace aerogel
