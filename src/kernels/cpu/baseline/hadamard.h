// The Hadamard rotation in float32: log2(block) passes of sums and differences.
#pragma once

#include "kernels/hadamard.h"

namespace aerogel::baseline {

void hadamard(const HadamardArgs& args) noexcept;

}  // namespace aerogel::baseline
