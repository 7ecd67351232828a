// The one chooser of kernels, with its two environment variables.
#include "ops/dispatch.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>

#include "aerogel/error.h"
#include "base/environment.h"
#include "base/fork.h"
#include "base/log.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/hadamard.h"
#include "kernels/linear.h"
#include "kernels/quantized_attention.h"

namespace aerogel {
namespace {

template <typename Kernel>
void append_names(std::vector<std::string>& names, std::span<const Kernel> kernels) {
    for (const Kernel& kernel : kernels) names.emplace_back(kernel.name);
}

// Read at every choice: choices are rare, and a program may set the variable before it loads a model.
std::optional<std::string> forced_kernel() {
    const std::vector<std::string> names = all_kernel_names();
    return environment_choice("AEROGEL_KERNEL", {names.begin(), names.end()});
}

std::string level_refusal(CpuLevel level) {
    if (level <= cpu_level()) return "";
    return "needs CPU level " + std::string(to_string(level)) + ", allowed is " +
           std::string(to_string(cpu_level()));
}

struct Seen {
    std::mutex guard;
    std::set<std::string> lines;
};
PerProcess<Seen> seen;

struct Refusals {
    std::string text;

    void add(std::string_view name, const std::string& reason) {
        text += (text.empty() ? "" : "; ") + std::string(name) + ": " + reason;
    }
};

void log_once(std::string_view op, const std::string& problem, std::string_view chosen,
              const std::string& refusals) {
    if (!log_enabled(LogTopic::dispatch)) return;
    const std::string line = std::string(op) + " " + problem + " -> " + std::string(chosen) +
                             (refusals.empty() ? "" : " (" + refusals + ")");
    Seen& mine = seen.get();
    const std::lock_guard lock(mine.guard);
    if (mine.lines.insert(line).second) log_line(LogTopic::dispatch, line);
}

}  // namespace

std::size_t choose_kernel(std::string_view op, const std::string& problem,
                          const std::vector<Candidate>& candidates,
                          const std::function<std::string(std::size_t)>& why_not) {
    const std::optional<std::string> forced = forced_kernel();
    const bool applies = forced && std::any_of(candidates.begin(), candidates.end(),
                                               [&](const Candidate& c) { return c.name == *forced; });
    Refusals refusals;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        if (applies && candidates[i].name != *forced) continue;
        std::string reason = level_refusal(candidates[i].level);
        if (reason.empty()) reason = why_not(i);
        if (reason.empty()) {
            const std::string why = applies ? "forced by AEROGEL_KERNEL" : refusals.text;
            log_once(op, problem, candidates[i].name, why);
            return i;
        }
        refusals.add(candidates[i].name, reason);
    }
    throw Unsupported("[" + std::string(op) + "] " +
                      (applies ? "the kernel forced by AEROGEL_KERNEL refuses " : "no kernel takes ") +
                      problem + ": " + refusals.text);
}

std::vector<std::string> all_kernel_names() {
    std::vector<std::string> names;
    append_names(names, linear_kernels());
    append_names(names, attention_kernels());
    append_names(names, quantized_attention_kernels());
    append_names(names, elementwise_kernels());
    append_names(names, hadamard_kernels());
    return names;
}

}  // namespace aerogel
