// Normalisation, activation functions, rotary embedding and gated residual on the best kernels of this
// CPU. The arguments are the kernels' own; callers (the model) own the arrays and have checked the shapes.
#pragma once

#include "kernels/elementwise.h"

namespace aerogel {

/// The set that all calls below use: AEROGEL_KERNEL's if it names one, else the best for cpu_level().
const ElementwiseKernels& chosen_elementwise();

/// LayerNorm or RMSNorm with optional affine and modulation (Ba et al. 2016; Zhang & Sennrich 2019).
void norm(const NormArgs& args);
/// y[i] = f(x[i]) for i < count; y may be x.
void activation(ActivationFunction function, const float* x, float* y, std::int64_t count);
/// Rotary embedding in place (Su et al., RoFormer, 2021), pairs of neighbours, angles from tables.
void rope(const RopeArgs& args);
/// x += gate * y in place.
void residual(const ResidualArgs& args);

}  // namespace aerogel
