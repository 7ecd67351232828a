// The linear kernels for every x86-64.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kBaselineFloat;
extern const LinearKernel kBaselineDequantize;
extern const LinearKernel kBaselineGrouped;

}  // namespace aerogel
