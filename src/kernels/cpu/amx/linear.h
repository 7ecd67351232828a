// The linear kernels for the AMX tile unit.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kAmxW8A8;

}  // namespace aerogel
