// The CPU with what it lacks in software.
#pragma once

#include "kernels/cpu/list.h"
#include "kernels/machine.h"

namespace aerogel::testing {

/// cpu::kMachine, where rows that this process may not run are those of tests/CMakeLists.txt, which need AVX2
/// and no more. A row is the same kernel, built from the same source.
#ifdef AEROGEL_SOFTWARE_KERNELS
const Machine& cpu_with_software();
#else  // the tests of CUDA kernels have none
inline const Machine& cpu_with_software() {
    return cpu::kMachine;
}
#endif

}  // namespace aerogel::testing
