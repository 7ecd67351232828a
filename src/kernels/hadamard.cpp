// The ordered list of Hadamard kernels.
#include "kernels/hadamard.h"

#include <array>

#include "kernels/cpu/avx2/hadamard.h"
#include "kernels/cpu/baseline/hadamard.h"
#include "kernels/reference/hadamard.h"

namespace aerogel {

std::span<const HadamardKernel> hadamard_kernels() {
    static constexpr std::array<HadamardKernel, 3> kKernels = {{
        {"cpu.avx2.hadamard", CpuLevel::avx2, avx2::hadamard},
        {"cpu.baseline.hadamard", CpuLevel::baseline, baseline::hadamard},
        {"reference.hadamard", CpuLevel::baseline, reference::hadamard},
    }};
    return kKernels;
}

}  // namespace aerogel
