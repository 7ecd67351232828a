// What the CPU's attention kernels refuse. Compiled for every x86-64: the sources of a level may not build
// strings.
#pragma once

#include "kernels/attention.h"

namespace aerogel {

std::string takes_all(const AttentionProblem& problem);
std::string takes_bf16(const AttentionProblem& problem);
/// Not causal.
std::string takes_all_keys(const AttentionProblem& problem);
/// Not causal, a head_dim of at most 256.
std::string takes_up_to_256(const AttentionProblem& problem);

}  // namespace aerogel
