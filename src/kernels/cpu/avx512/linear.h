// The linear kernels for AVX-512 with VNNI.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kAvx512Float;
extern const LinearKernel kAvx512W8A16;
extern const LinearKernel kAvx512W8A8;

}  // namespace aerogel
