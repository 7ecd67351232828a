// The linear kernels for AVX2 with FMA.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kAvx2Float;
extern const LinearKernel kAvx2Dequantize;
extern const LinearKernel kAvx2Grouped;
extern const LinearKernel kAvx2W8A8;

}  // namespace aerogel
