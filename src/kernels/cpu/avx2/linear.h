// The linear kernels for AVX2 with FMA.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kAvx2Float;
extern const LinearKernel kAvx2W8A16;
extern const LinearKernel kAvx2W8A8;

}  // namespace aerogel
