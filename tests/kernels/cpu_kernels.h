// The kernels for the tests that walk the lists: those of the CPU, or of another machine
// (AEROGEL_TEST_MACHINE).
#pragma once

#include <functional>
#include <vector>

#include "kernels/cpu/list.h"

namespace aerogel::testing {

/// The CPU, with software for the levels that it lacks. With AEROGEL_TEST_MACHINE=cuda that of CUDA devices,
/// whose rows take arrays on the host (mirrored_kernels.h); cuda_own: without the rows that every card has;
/// emulated_cpu: the CPU without software, slowly.
const Machine& machine_under_test();
bool tests_the_cpu();
/// Empty, or why the process does not run the row, or runs it elsewhere.
std::string not_tested(int level);

/// An emulated device is some 10^4 times slower, an emulated CPU 10 to 100 times.
bool takes_time();
/// Problems of so many products and more are left to the CPU then.
bool is_too_large(const LinearProblem& problem);
bool is_too_large(const AttentionProblem& problem);
bool is_too_large(const ConvolutionProblem& problem, std::int64_t pixels);

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
        if (not_tested(row.level).empty()) kernels.push_back(*row.kernel);
    return kernels;
}

/// Those that take the problem.
template <typename Kernel, typename Problem>
KernelReferences<Kernel> usable(KernelList<Kernel> rows, const Problem& problem) {
    KernelReferences<Kernel> kernels;
    if (is_too_large(problem)) return kernels;
    for (const Kernel& kernel : usable(rows))
        if (kernel.why_not(problem).empty()) kernels.push_back(kernel);
    return kernels;
}

}  // namespace aerogel::testing
