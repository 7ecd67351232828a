// The CPU's kernels for the tests that walk its lists.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cpu/list.h"

namespace aerogel::testing {

template <typename Kernel>
using KernelReferences = std::vector<std::reference_wrapper<const Kernel>>;

/// All rows, those of levels that this CPU lacks too.
template <typename Kernel>
KernelReferences<Kernel> every(KernelList<Kernel> rows) {
    KernelReferences<Kernel> kernels;
    for (const auto& row : rows) kernels.push_back(*row.kernel);
    return kernels;
}

/// The rows that this process may run.
template <typename Kernel>
KernelReferences<Kernel> usable(KernelList<Kernel> rows) {
    KernelReferences<Kernel> kernels;
    for (const auto& row : rows)
        if (cpu::kMachine.why_not(Device::cpu, row.level).empty()) kernels.push_back(*row.kernel);
    return kernels;
}

/// Those that take the problem.
template <typename Kernel, typename Problem>
KernelReferences<Kernel> usable(KernelList<Kernel> rows, const Problem& problem) {
    KernelReferences<Kernel> kernels;
    for (const Kernel& kernel : usable(rows))
        if (kernel.why_not(problem).empty()) kernels.push_back(kernel);
    return kernels;
}

}  // namespace aerogel::testing
