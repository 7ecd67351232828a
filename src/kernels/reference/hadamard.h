// The Hadamard rotation by its definition, in double.
#pragma once

#include "kernels/hadamard.h"

namespace aerogel::reference {

void hadamard(const HadamardArgs& args) noexcept;

}  // namespace aerogel::reference
