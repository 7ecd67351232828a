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

namespace aerogel {
namespace {

constexpr const char* kForced = "AEROGEL_KERNEL";

template <typename Kernel>
void append_names(std::vector<std::string>& names, KernelList<Kernel> rows) {
    for (const auto& row : rows) names.emplace_back(row.kernel->name);
}

template <typename Kernel>
void append_listed(std::vector<ListedKernel>& listed, Device device, KernelList<Kernel> rows) {
    for (const auto& row : rows) {
        ListedKernel kernel{std::string(row.kernel->name), {}};
        try {
            kernel.why_not = machine_of(device).why_not(device, row.level);
        } catch (const Error& error) {  // there is no such device
            kernel.why_not = error.what();
        }
        listed.push_back(std::move(kernel));
    }
}

// Read at every choice, as a program may set the variable before it loads a model.
std::optional<std::string> forced_kernel() {
    if (!environment(kForced)) return std::nullopt;
    const std::vector<std::string> names = all_kernel_names();
    return environment_choice(kForced, {names.begin(), names.end()});
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
                          const std::vector<std::string_view>& names,
                          const std::function<std::string(std::size_t)>& why_not) {
    const std::optional<std::string> forced = forced_kernel();
    const bool applies = forced && std::find(names.begin(), names.end(), *forced) != names.end();
    Refusals refusals;
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (applies && names[i] != *forced) continue;
        const std::string reason = why_not(i);
        if (reason.empty()) {
            const std::string why = applies ? "forced by AEROGEL_KERNEL" : refusals.text;
            log_once(op, problem, names[i], why);
            return i;
        }
        refusals.add(names[i], reason);
    }
    throw Unsupported("[" + std::string(op) + "] " +
                      (applies ? "the kernel forced by AEROGEL_KERNEL refuses " : "no kernel takes ") +
                      problem + ": " + (names.empty() ? "this machine has none" : refusals.text));
}

bool is_forced(std::string_view name) {
    return forced_kernel() == name;
}

std::vector<std::string> all_kernel_names() {
    std::vector<std::string> names;
    for (const Machine* machine : machines()) {
        append_names(names, machine->linear);
        append_names(names, machine->attention);
        append_names(names, machine->elementwise);
        append_names(names, machine->hadamard);
        append_names(names, machine->convolution);
        append_names(names, machine->planning);
    }
    return names;
}

std::vector<ListedKernel> listed_kernels() {
    std::vector<ListedKernel> listed;
    for (const Device device : devices_of_build()) {
        const Machine& machine = machine_of(device);
        append_listed(listed, device, machine.linear);
        append_listed(listed, device, machine.attention);
        append_listed(listed, device, machine.elementwise);
        append_listed(listed, device, machine.hadamard);
        append_listed(listed, device, machine.convolution);
        append_listed(listed, device, machine.planning);
    }
    return listed;
}

}  // namespace aerogel
