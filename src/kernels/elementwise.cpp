// The ordered list of elementwise kernel sets.
#include "kernels/elementwise.h"

#include <array>

#include "kernels/reference/elementwise.h"

namespace aerogel {

std::span<const ElementwiseKernels> elementwise_kernels() {
    static const std::array<ElementwiseKernels, 1> kKernels = {{
        {"reference.elementwise", CpuLevel::baseline, reference::norm, reference::activation, reference::rope,
         reference::residual},
    }};
    return kKernels;
}

}  // namespace aerogel
