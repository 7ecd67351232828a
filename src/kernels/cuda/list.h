// The machine "CUDA": its lists of kernels.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cuda {

extern const Machine kMachine;

}  // namespace aerogel::cuda
