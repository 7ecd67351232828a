// The reference kernels: plain loops with double sums, the oracle of all tests and the last resort on the
// CPU.
#pragma once

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "kernels/planning.h"

namespace aerogel::reference {

extern const LinearKernel kLinear;
extern const AttentionKernel kAttention;
extern const AttentionKernel kInt8Attention;
extern const AttentionKernel kRoundedAttention;
extern const ConvolutionKernel kConvolution;
extern const ElementwiseKernels kElementwise;
extern const HadamardKernel kHadamard;
extern const PlanningKernels kPlanning;

}  // namespace aerogel::reference
