// The plain linear kernel: the oracle of all tests, and the last resort on any machine.
#pragma once

#include "kernels/linear.h"

namespace aerogel {

extern const LinearKernel kReferenceLinear;

}  // namespace aerogel
