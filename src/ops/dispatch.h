// Choosing a kernel from the list of the machine that has the tensors: the first row whose level the machine
// offers and that does not refuse the problem. AEROGEL_LOG=dispatch tells the choice and each refusal (once
// per distinct problem); AEROGEL_KERNEL=name forces one for the operations that have it and errors where it
// refuses.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/machines.h"

namespace aerogel {

/// Index of the kernel to use. `why_not(i)` gives the refusal of the i-th name or an empty string.
/// Throws Unsupported with all refusals when none is left or the forced one refuses.
std::size_t choose_kernel(std::string_view op, const std::string& problem,
                          const std::vector<std::string_view>& names,
                          const std::function<std::string(std::size_t)>& why_not);

/// Whether AEROGEL_KERNEL names this kernel.
bool is_forced(std::string_view name);

/// Every kernel name of every list (for AEROGEL_KERNEL's error and `aerogel inspect --kernels`).
std::vector<std::string> all_kernel_names();

struct ListedKernel {
    std::string name;
    std::string why_not;  ///< empty, or why the machine at hand runs it for no problem
};

/// all_kernel_names(), each with what the first device of its machine says.
std::vector<ListedKernel> listed_kernels();

/// Rows of float32 are all that a kernel without why_not() is asked about.
struct FloatRows {
    std::string describe() const { return "float32 rows"; }
};

/// The same for a list of the device's machine. Rows have a name and, unless they take every problem,
/// why_not(problem); those that are not for a problem, where they have is_for(problem), are left aside.
template <typename Kernel, typename Problem>
const Kernel& choose(std::string_view op, Device device, KernelList<Kernel> Machine::*list,
                     const Problem& problem) {
    const Machine& machine = machine_of(device);
    std::vector<MachineRow<Kernel>> rows;
    std::vector<std::string_view> names;
    for (const auto& row : machine.*list) {
        if constexpr (requires(const Kernel& kernel) { kernel.is_for(problem); }) {
            if (!row.kernel->is_for(problem)) continue;
        }
        rows.push_back(row);
        names.push_back(row.kernel->name);
    }
    return *rows[choose_kernel(op, problem.describe(), names, [&](std::size_t i) {
                auto reason = machine.why_not(device, rows[i].level);
                if constexpr (requires(const Kernel& kernel) { kernel.why_not(problem); }) {
                    if (reason.empty()) reason = rows[i].kernel->why_not(problem);
                }
                if (reason.empty() && rows[i].slow != nullptr && !is_forced(names[i]))
                    reason = rows[i].slow();
                return reason;
            })].kernel;
}

}  // namespace aerogel
