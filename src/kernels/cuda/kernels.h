// The rows of this folder, as list.cpp lists them.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cuda {

// linear.cpp: mma.sync, on every card
extern const LinearKernel kW8A8Linear, kW4A8Linear, kGroupedLinear, kDequantizeLinear, kFloatLinear;

}  // namespace aerogel::cuda
