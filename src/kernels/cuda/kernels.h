// The rows of this folder, as list.cpp lists them.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cuda {

// linear.cpp: wgmma on Hopper, mma.sync of fp8 on the cards that have it, mma.sync of the rest on every card
extern const LinearKernel kHopperW8A8Linear, kHopperW4A8Linear, kHopperGroupedLinear, kHopperFp8Linear,
    kHopperFloatLinear, kHopperDequantizeLinear, kFp8Linear, kW8A8Linear, kW4A8Linear, kGroupedLinear,
    kDequantizeLinear, kFloatLinear;
extern const LinearKernel kMxLinear;  // linear_mx.cpp: MX numbers on sm_120
extern const ElementwiseKernels kElementwise;
extern const HadamardKernel kHadamard;
extern const ConvolutionKernel kConvolution;
extern const PlanningKernels kPlanning;
extern const AttentionKernel kHopperAttention, kHopperInt8QkAttention;  // attention_sm90.cpp: wgmma
// attention.cpp, int8_attention.cpp, int8_qk_attention.cpp, attention_rounding.cpp
extern const AttentionKernel kAttention, kSplitAttention, kInt8Attention, kInt8QkAttention, kRoundedAttention;

}  // namespace aerogel::cuda
