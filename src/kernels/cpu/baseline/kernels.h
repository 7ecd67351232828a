// Every kernel for every x86-64. kernels/cpu/list.cpp says which one is tried first.
#pragma once

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "kernels/peak.h"

namespace aerogel::baseline {

extern const LinearKernel kFloat;
extern const LinearKernel kDequantize;
extern const LinearKernel kGrouped;
extern const AttentionKernel kAttention;
extern const AttentionKernel kRoundedAttention;
extern const ConvolutionKernel kConvolution;
extern const ConvolutionKernel kWinograd;
extern const ElementwiseKernels kElementwise;
extern const HadamardKernel kHadamard;
extern const PeakKernel kPeakF32;
extern const PeakKernel kPeakInt8;

}  // namespace aerogel::baseline
