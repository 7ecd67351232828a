// What the attention kernels of a CPU level refuse. Compiled for every x86-64: the sources of a level may not
// build strings.
#pragma once

#include "kernels/attention.h"

namespace aerogel {

/// Without a bias.
std::string takes_bf16(const AttentionProblem& problem);
/// Not causal, without a bias, a head_dim of at most 256.
std::string takes_up_to_256(const AttentionProblem& problem);

}  // namespace aerogel
