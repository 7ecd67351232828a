// The CPU: every kernel that runs on it, of every level.
#pragma once

#include "kernels/machine.h"

namespace aerogel::cpu {

/// All lists but that of the peaks end with the reference, which takes everything.
extern const Machine kMachine;

}  // namespace aerogel::cpu
