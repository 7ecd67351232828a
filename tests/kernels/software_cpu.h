// The CPU with what it lacks in software.
#pragma once

#include "kernels/machine.h"

namespace aerogel::testing {

/// cpu::kMachine, where rows that this process may not run are those of tests/CMakeLists.txt, which need AVX2
/// and no more. A row is the same kernel, built from the same source.
const Machine& cpu_with_software();

}  // namespace aerogel::testing
