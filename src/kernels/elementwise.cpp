// The ordered list of elementwise kernel sets.
#include "kernels/elementwise.h"

#include <array>

#include "kernels/cpu/avx2/elementwise.h"
#include "kernels/cpu/avx512/elementwise.h"
#include "kernels/cpu/baseline/elementwise.h"
#include "kernels/reference/elementwise.h"

namespace aerogel {

std::span<const ElementwiseKernels> elementwise_kernels() {
    static const std::array<ElementwiseKernels, 4> kKernels = {{
        {"cpu.avx512.elementwise", CpuLevel::avx512, avx512::norm, avx512::activation, avx512::rope,
         avx512::residual},
        {"cpu.avx2.elementwise", CpuLevel::avx2, avx2::norm, avx2::activation, avx2::rope, avx2::residual},
        {"cpu.baseline.elementwise", CpuLevel::baseline, baseline::norm, baseline::activation, baseline::rope,
         baseline::residual},
        {"reference.elementwise", CpuLevel::baseline, reference::norm, reference::activation, reference::rope,
         reference::residual},
    }};
    return kKernels;
}

}  // namespace aerogel
