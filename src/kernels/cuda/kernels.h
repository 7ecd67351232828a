// The rows of this folder, as list.cpp lists them.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cuda {

// linear.cpp: wgmma on Hopper, mma.sync on every card
extern const LinearKernel kHopperW8A8Linear, kW8A8Linear, kW4A8Linear, kGroupedLinear, kDequantizeLinear,
    kFloatLinear;
extern const ElementwiseKernels kElementwise;
extern const HadamardKernel kHadamard;

}  // namespace aerogel::cuda
