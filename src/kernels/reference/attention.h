// Plain-loop attention with double accumulation: the oracle of the attention tests and the last resort.
#pragma once

#include "kernels/attention.h"

namespace aerogel::reference {

/// Bytes of scratch memory: one row of scores and of sums in double per thread.
std::size_t attention_workspace(const AttentionProblem& problem);
/// Takes every problem. Two passes per query row: largest score, then weights and sums.
void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept;

}  // namespace aerogel::reference
