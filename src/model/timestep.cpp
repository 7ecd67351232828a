// The current step and the policy of timestep-aware layers.
#include "aerogel/timestep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <span>

#include "aerogel/error.h"
#include "model/json_file.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;
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

int whole(const fs::path& path, std::string_view key, const Json& value) {
    if (!value.is_number_integer() || value < 0 || value > 1'000'000) {
        wrong_json_value("timestep", path, key, "a step of 0 .. 1000000", value);
    }
    return value.get<int>();
}

std::vector<int> steps_of(const fs::path& path, const Json& range) {
    std::vector<int> steps;
    if (range.is_array()) {
        for (const Json& step : range) steps.push_back(whole(path, "step_range", step));
    } else if (range.is_object()) {
        if (range.size() != 2 || !range.contains("start") || !range.contains("stop")) {
            wrong_json_value("timestep", path, "step_range", R"({"start": .., "stop": ..})", range);
        }
        const int stop = whole(path, "stop", range["stop"]);
        for (int step = whole(path, "start", range["start"]); step < stop; ++step) steps.push_back(step);
    } else {
        steps.push_back(whole(path, "step_range", range));
    }
    return steps;
}

std::string text_of(const fs::path& path, const Json& object, std::string_view key,
                    std::string_view fallback) {
    if (!object.contains(key)) return std::string(fallback);
    const Json& value = object[std::string(key)];
    if (!value.is_string()) wrong_json_value("timestep", path, key, "a string", value);
    return value.get<std::string>();
}

void check_keys(const fs::path& path, const Json& object, std::span<const std::string_view> known) {
    for (const auto& [key, value] : object.items()) {
        if (std::find(known.begin(), known.end(), key) != known.end()) continue;
        throw InvalidArgument(fmt::format("[timestep] {}: unknown key '{}', there are: {}", path.string(),
                                          key, fmt::join(known, ", ")));
    }
}

void register_entry(const fs::path& path, const Json& entry, TimestepPolicyConfig& policy) {
    static constexpr std::array<std::string_view, 3> kKeys = {"step_range", "strategy", "target"};
    if (!entry.is_object() || !entry.contains("step_range") || !entry.contains("strategy")) {
        wrong_json_value("timestep", path, "register", "a list of objects with step_range and strategy",
                         entry);
    }
    check_keys(path, entry, kKeys);
    const std::vector<int> steps = steps_of(path, entry["step_range"]);
    const std::string strategy = text_of(path, entry, "strategy", "");
    policy.register_steps(steps, strategy, text_of(path, entry, "target", kFourBits));
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
    const Json json = read_json_object(path);
    check_keys(path, json, kKeys);
    std::array<std::string, 3> defaults;
    for (std::size_t i = 0; i < defaults.size(); ++i) {
        const Target& target = kTargets.at(i);
        defaults.at(i) = text_of(path, json, target.default_key, target.strategies[0]);
    }
    try {
        TimestepPolicyConfig policy(defaults[0], defaults[1], defaults[2]);
        if (!json.contains("register")) return policy;
        if (!json["register"].is_array()) {
            wrong_json_value("timestep", path, "register", "a list", json["register"]);
        }
        for (const Json& entry : json["register"]) register_entry(path, entry, policy);
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
