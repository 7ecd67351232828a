// Plain loops in double for the operations between matrix products: the oracle of their tests.
#pragma once

#include "kernels/elementwise.h"

namespace aerogel::reference {

void norm(const NormArgs& args) noexcept;
void activation(ActivationFunction function, const float* x, float* y, std::int64_t count) noexcept;
void rope(const RopeArgs& args) noexcept;
void residual(const ResidualArgs& args) noexcept;

}  // namespace aerogel::reference
