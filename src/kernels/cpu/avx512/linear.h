// The linear kernels for AVX-512 with VNNI.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kAvx512Float;
extern const LinearKernel kAvx512Dequantize;
extern const LinearKernel kAvx512Grouped;
extern const LinearKernel kAvx512W8A8;

}  // namespace aerogel
