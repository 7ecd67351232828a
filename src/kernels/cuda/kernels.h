// The rows of this folder, as list.cpp lists them.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cuda {}  // namespace aerogel::cuda
