// Choosing a kernel from an ordered list: the first whose CPU level is allowed and that does not
// refuse. AEROGEL_LOG=dispatch tells the choice and each refusal (once per distinct problem);
// AEROGEL_KERNEL=name forces one for the operations that have it and errors where it refuses.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu_features.h"

namespace aerogel {

/// A list entry as the chooser sees it.
struct Candidate {
    std::string_view name;
    CpuLevel level;
};

/// Index of the kernel to use. `why_not(i)` gives the refusal of candidate i or an empty string.
/// Throws Unsupported with all refusals when none is left or the forced one refuses.
std::size_t choose_kernel(std::string_view op, const std::string& problem,
                          const std::vector<Candidate>& candidates,
                          const std::function<std::string(std::size_t)>& why_not);

/// Every kernel name of every list (for AEROGEL_KERNEL's error and `aerogel inspect --kernels`).
std::vector<std::string> all_kernel_names();

/// The same for a list of rows {name, level, why_not(problem)}.
template <typename Kernel, typename Problem>
const Kernel& choose(std::string_view op, std::span<const Kernel> kernels, const Problem& problem) {
    std::vector<Candidate> candidates;
    for (const auto& kernel : kernels) candidates.push_back({kernel.name, kernel.level});
    return kernels[choose_kernel(op, problem.describe(), candidates,
                                 [&](std::size_t i) { return kernels[i].why_not(problem); })];
}

}  // namespace aerogel
