// The current step and the policy of timestep-aware layers.
#include "aerogel/timestep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <span>

#include "aerogel/error.h"
#include "core/json_node.h"

namespace aerogel {
namespace {

namespace fs = std::filesystem;

struct Target {
    std::string_view name;
    std::string_view default_key;
    std::array<std::string_view, 3> strategies;

    std::span<const std::string_view> names() const {
        const auto end = std::find(strategies.begin(), strategies.end(), "");
        return {strategies.begin(), end};
    }
    bool has(std::string_view strategy) const {
        const auto all = names();
        return std::find(all.begin(), all.end(), strategy) != all.end();
    }
};

constexpr std::string_view kStatic = "w8a8_static_linear", kFourBits = "w4a4_linear", kAttention = "fa";
constexpr std::array<Target, 3> kTargets = {{
    {kStatic, "default_strategy", {"dynamic", "static"}},
    {kFourBits, "w4a4_default_strategy", {"W4A4", "W4A8"}},
    {kAttention, "fa_default_strategy", {"MXFP4", "FP8", "FLOAT"}},
}};

// "linear" is the Linear target that knows the strategy.
const Target& target_of(std::string_view name, std::string_view strategy) {
    if (name == "linear") name = kTargets[1].has(strategy) ? kFourBits : kStatic;
    for (const Target& target : kTargets) {
        if (target.name == name) return target;
    }
    throw InvalidArgument(fmt::format("[timestep] target must be linear, {}, {} or {}, got '{}'",
                                      kTargets[0].name, kTargets[1].name, kTargets[2].name, name));
}

const Target& checked(const Target& target, std::string_view strategy) {
    if (target.has(strategy)) return target;
    throw InvalidArgument(fmt::format("[timestep] strategy of {} must be one of {}, got '{}'", target.name,
                                      fmt::join(target.names(), ", "), strategy));
}

constexpr int kMostSteps = 100'000;              // of a run
constexpr std::size_t kMostEntries = 1'000'000;  // steps that the entries of a file name together

int read_step(const JsonNode& step, int most) {
    return static_cast<int>(step.whole({0, most}));
}

std::vector<int> read_steps(const JsonNode& range) {
    static constexpr std::array<std::string_view, 2> kKeys = {"start", "stop"};
    std::vector<int> steps;
    if (range.is_list()) {
        for (const JsonNode& step : range.items()) steps.push_back(read_step(step, kMostSteps - 1));
    } else if (range.is_object()) {
        range.check_keys(kKeys);
        const int stop = read_step(range.at("stop"), kMostSteps);
        for (int step = read_step(range.at("start"), kMostSteps); step < stop; ++step) steps.push_back(step);
    } else {
        steps.push_back(read_step(range, kMostSteps - 1));
    }
    return steps;
}

std::string read_text(const JsonNode& object, std::string_view key, std::string_view fallback) {
    return object.contains(key) ? object.at(key).text() : std::string(fallback);
}

// Registers the steps of an entry; returns how many it names.
std::size_t register_entry(const JsonNode& entry, TimestepPolicyConfig& policy) {
    static constexpr std::array<std::string_view, 3> kKeys = {"step_range", "strategy", "target"};
    if (!entry.is_object() || !entry.contains("step_range") || !entry.contains("strategy")) {
        entry.fail("an object with step_range and strategy");
    }
    entry.check_keys(kKeys);
    const std::vector<int> steps = read_steps(entry.at("step_range"));
    policy.register_steps(steps, entry.at("strategy").text(), read_text(entry, "target", kFourBits));
    return steps.size();
}

}  // namespace

void TimestepManager::set_timestep_idx(std::optional<int> index) {
    if (index && (*index < 0 || (max_ && *index >= *max_))) {
        throw InvalidArgument(fmt::format("[timestep] timestep_idx must be in [0, {}), got {}",
                                          max_ ? std::to_string(*max_) : "max", *index));
    }
    index_ = index;
}

void TimestepManager::set_timestep_idx_max(std::optional<int> max) {
    if (max && *max < 1) {
        throw InvalidArgument(fmt::format("[timestep] timestep_idx_max must be at least 1, got {}", *max));
    }
    if (max && index_ && *index_ >= *max) {
        throw InvalidArgument(fmt::format(
            "[timestep] timestep_idx is {}: timestep_idx_max must be larger, got {}", *index_, *max));
    }
    max_ = max;
}

TimestepPolicyConfig::TimestepPolicyConfig(const std::string& default_strategy,
                                           const std::string& w4a4_default_strategy,
                                           const std::string& fa_default_strategy) {
    const std::array<const std::string*, 3> given = {&default_strategy, &w4a4_default_strategy,
                                                     &fa_default_strategy};
    for (std::size_t i = 0; i < given.size(); ++i) {
        defaults_.emplace(checked(kTargets.at(i), *given.at(i)).name, *given.at(i));
    }
}

TimestepPolicyConfig TimestepPolicyConfig::read(const fs::path& path) {
    static constexpr std::array<std::string_view, 4> kKeys = {
        kTargets[0].default_key, kTargets[1].default_key, kTargets[2].default_key, "register"};
    const JsonNode json = JsonNode::read(path, "timestep");
    json.check_keys(kKeys);
    std::array<std::string, 3> defaults;
    for (std::size_t i = 0; i < defaults.size(); ++i) {
        const Target& target = kTargets.at(i);
        defaults.at(i) = read_text(json, target.default_key, target.strategies[0]);
    }
    try {
        TimestepPolicyConfig policy(defaults[0], defaults[1], defaults[2]);
        if (!json.contains("register")) return policy;
        std::size_t named = 0;
        for (const JsonNode& entry : json.at("register").items()) {
            named += register_entry(entry, policy);
            if (named > kMostEntries) entry.fail(fmt::format("among {} named steps at most", kMostEntries));
        }
        return policy;
    } catch (const InvalidArgument& error) {
        const std::string what = error.what();
        if (what.find(path.string()) != std::string::npos) throw;
        throw InvalidArgument(fmt::format("[timestep] {}: {}", path.string(), what));
    }
}

TimestepPolicyConfig& TimestepPolicyConfig::register_steps(const std::vector<int>& step_range,
                                                           std::string_view strategy,
                                                           std::string_view target) {
    const Target& row = checked(target_of(target, strategy), strategy);
    for (const int step : step_range) {
        if (step < 0) throw InvalidArgument(fmt::format("[timestep] steps must be >= 0, got {}", step));
    }
    for (const int step : step_range) registered_[{std::string(row.name), step}] = strategy;
    return *this;
}

const std::string& TimestepPolicyConfig::get_strategy(std::optional<int> step,
                                                      std::string_view target) const {
    const std::string name(target_of(target, "").name);
    const auto found = step ? registered_.find({name, *step}) : registered_.end();
    return found != registered_.end() ? found->second : defaults_.find(name)->second;
}

StepContext TimestepPolicyConfig::context(int timestep_index) const {
    const auto step = timestep_index < 0 ? std::nullopt : std::optional(timestep_index);
    StepContext context;
    context.timestep_index = timestep_index;
    context.dynamic = get_strategy(step, kStatic) == "dynamic";
    context.wide_activations = get_strategy(step, kFourBits) == "W4A8";
    return context;
}

AttentionStrategy TimestepPolicyConfig::attention(int timestep_index) const {
    const auto step = timestep_index < 0 ? std::nullopt : std::optional(timestep_index);
    const bool registered = step && registered_.contains({std::string(kAttention), *step});
    return {get_strategy(step, kAttention), registered};
}

}  // namespace aerogel
