// Every kernel for AVX-512 with VNNI. kernels/cpu/list.cpp says which one is tried first.
#pragma once

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "kernels/peak.h"

namespace aerogel::avx512 {

extern const LinearKernel kFloat;
extern const LinearKernel kDequantize;
extern const LinearKernel kGrouped;
extern const LinearKernel kW8A8;
extern const LinearKernel kByteGroups;
extern const AttentionKernel kAttention;
extern const AttentionKernel kInt8Attention;
extern const AttentionKernel kRoundedAttention;
extern const ConvolutionKernel kConvolution;
extern const ConvolutionKernel kWinograd;
extern const ElementwiseKernels kElementwise;
extern const HadamardKernel kHadamard;
extern const PeakKernel kPeakF32;
extern const PeakKernel kPeakInt8;

}  // namespace aerogel::avx512
