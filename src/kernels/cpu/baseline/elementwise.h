// The operations between matrix products for any x86-64 (SSE2).
#pragma once

#include "kernels/elementwise.h"

namespace aerogel::baseline {

void norm(const NormArgs& args) noexcept;
void activation(ActivationFunction function, const float* x, float* y, std::int64_t count) noexcept;
void rope(const RopeArgs& args) noexcept;
void residual(const ResidualArgs& args) noexcept;

}  // namespace aerogel::baseline
