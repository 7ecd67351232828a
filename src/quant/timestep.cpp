// The current step and the policy of timestep-aware layers.
#include "aerogel/timestep.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>

#include "aerogel/error.h"
#include "core/json.h"

namespace aerogel {
namespace {

namespace fs = std::filesystem;

struct TargetRow {
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

// The words of the formats that a policy may choose, fewest bits first.
constexpr std::array<std::string_view, 3> attention_strategies() {
    std::array<std::string_view, 3> words;
    std::size_t count = 0;
    for (std::size_t i = kAttentionFormats.size(); i-- > 0;)
        if (!kAttentionFormats[i].strategy.empty()) words[count++] = kAttentionFormats[i].strategy;
    return words;
}

constexpr std::size_t kStaticLinears = 0, kFourBitLinears = 1, kQuantizedAttention = 2;
constexpr std::array<TargetRow, 3> kPolicyTargets = {{
    {"w8a8_static_linear", "default_strategy", {"dynamic", "static"}},
    {"w4a4_linear", "w4a4_default_strategy", {"W4A4", "W4A8"}},
    {"fa", "fa_default_strategy", attention_strategies()},
}};

// Which row; "linear" is the Linear target that knows the strategy.
std::size_t target_of(std::string_view name, std::string_view strategy) {
    if (name == "linear")
        name = kPolicyTargets[kFourBitLinears].has(strategy) ? kPolicyTargets[kFourBitLinears].name
                                                             : kPolicyTargets[0].name;
    for (std::size_t i = 0; i < kPolicyTargets.size(); ++i) {
        if (kPolicyTargets.at(i).name == name) return i;
    }
    throw InvalidArgument(fmt::format("[timestep] target must be linear, {}, {} or {}, got '{}'",
                                      kPolicyTargets[0].name, kPolicyTargets[1].name, kPolicyTargets[2].name,
                                      name));
}

void check_strategy(const TargetRow& target, std::string_view strategy) {
    if (target.has(strategy)) return;
    throw InvalidArgument(fmt::format("[timestep] strategy of {} must be one of {}, got '{}'", target.name,
                                      fmt::join(target.names(), ", "), strategy));
}

constexpr int kMostPolicySteps = 100'000;              // of a run
constexpr std::size_t kMostPolicyEntries = 1'000'000;  // steps that the entries of a file name together

int read_step(const JsonNode& step, int most) {
    return static_cast<int>(step.whole({0, most}));
}

std::vector<int> read_steps(const JsonNode& range) {
    static constexpr std::array<std::string_view, 2> kKeys = {"start", "stop"};
    std::vector<int> steps;
    if (range.is_list()) {
        for (const JsonNode& step : range.items()) steps.push_back(read_step(step, kMostPolicySteps - 1));
    } else if (range.is_object()) {
        range.check_keys(kKeys);
        const int stop = read_step(range.at("stop"), kMostPolicySteps);
        for (int step = read_step(range.at("start"), kMostPolicySteps); step < stop; ++step)
            steps.push_back(step);
    } else {
        steps.push_back(read_step(range, kMostPolicySteps - 1));
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
    policy.register_steps(steps, entry.at("strategy").text(),
                          read_text(entry, "target", kPolicyTargets[kFourBitLinears].name));
    return steps.size();
}

std::vector<std::string_view> split_text(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (std::size_t end = 0; end != std::string_view::npos;) {
        end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end != std::string_view::npos) text.remove_prefix(end + 1);
    }
    return parts;
}

int step_number(std::string_view text) {
    int number = 0;
    const char* end = text.data() + text.size();
    const auto [stop, problem] = std::from_chars(text.data(), end, number);
    if (problem == std::errc() && stop == end) return number;
    throw InvalidArgument(fmt::format("[timestep] '{}' in the text of a policy is no step", text));
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
    set_default(default_strategy, kPolicyTargets[kStaticLinears].name);
    set_default(w4a4_default_strategy, kPolicyTargets[kFourBitLinears].name);
    set_default(fa_default_strategy, kPolicyTargets[kQuantizedAttention].name);
}

TimestepPolicyConfig TimestepPolicyConfig::static_from(int step) {
    if (step < 0 || step > kMostPolicySteps) {
        throw InvalidArgument(fmt::format("[timestep] the first static step must be in [0, {}], got {}",
                                          kMostPolicySteps, step));
    }
    TimestepPolicyConfig policy("static");
    for (int early = 0; early < step; ++early) policy.targets_[kStaticLinears].registered[early] = "dynamic";
    return policy;
}

TimestepPolicyConfig TimestepPolicyConfig::read(const fs::path& path) {
    static constexpr std::array<std::string_view, 4> kKeys = {kPolicyTargets[0].default_key,
                                                              kPolicyTargets[1].default_key,
                                                              kPolicyTargets[2].default_key, "register"};
    const JsonNode json = JsonNode::read(path, "timestep");
    json.check_keys(kKeys);
    std::array<std::string, 3> defaults;
    for (std::size_t i = 0; i < defaults.size(); ++i) {
        const TargetRow& target = kPolicyTargets.at(i);
        defaults.at(i) = read_text(json, target.default_key, target.strategies[0]);
    }
    try {
        TimestepPolicyConfig policy(defaults[0], defaults[1], defaults[2]);
        if (!json.contains("register")) return policy;
        std::size_t named = 0;
        for (const JsonNode& entry : json.at("register").items()) {
            named += register_entry(entry, policy);
            if (named > kMostPolicyEntries)
                entry.fail(fmt::format("among {} named steps at most", kMostPolicyEntries));
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
    const std::size_t row = target_of(target, strategy);
    check_strategy(kPolicyTargets.at(row), strategy);
    for (const int step : step_range) {
        if (step < 0) throw InvalidArgument(fmt::format("[timestep] steps must be >= 0, got {}", step));
    }
    for (const int step : step_range) targets_.at(row).registered[step] = strategy;
    return *this;
}

void TimestepPolicyConfig::set_default(std::string_view strategy, std::string_view target) {
    const std::size_t row = target_of(target, strategy);
    check_strategy(kPolicyTargets.at(row), strategy);
    targets_.at(row).fallback = strategy;
}

const std::string& TimestepPolicyConfig::get_strategy(std::optional<int> step,
                                                      std::string_view target) const {
    return strategy(target_of(target, ""), step.value_or(-1));
}

const std::string& TimestepPolicyConfig::strategy(std::size_t target, int timestep_index) const {
    const Target& row = targets_.at(target);
    const auto found = row.registered.find(timestep_index);
    return found != row.registered.end() ? found->second : row.fallback;
}

StepContext TimestepPolicyConfig::context(int timestep_index) const {
    StepContext context;
    context.timestep_index = timestep_index;
    context.dynamic = strategy(kStaticLinears, timestep_index) == "dynamic";
    context.wide_activations = strategy(kFourBitLinears, timestep_index) == "W4A8";
    return context;
}

AttentionFormat TimestepPolicyConfig::attention_format(AttentionFormat own, int timestep_index) const {
    const std::string& asked = strategy(kQuantizedAttention, timestep_index);
    const bool four_bits = own == AttentionFormat::mxfp4;
    if (!four_bits && !targets_[kQuantizedAttention].registered.contains(timestep_index)) return own;
    const auto row = std::find_if(kAttentionFormats.begin(), kAttentionFormats.end(),
                                  [&](const AttentionFormatRow& format) { return format.strategy == asked; });
    return four_bits || row->format == AttentionFormat::none ? row->format : own;
}

std::string TimestepPolicyConfig::to_text() const {
    std::string text, steps;
    for (std::size_t i = 0; i < kPolicyTargets.size(); ++i) {
        const TargetRow& row = kPolicyTargets.at(i);
        text += fmt::format("{}{}={}", i == 0 ? "" : ";", row.name, targets_.at(i).fallback);
        for (const std::string_view strategy : row.names()) {
            std::vector<int> numbers;
            for (const auto& [step, registered] : targets_.at(i).registered) {
                if (registered == strategy) numbers.push_back(step);
            }
            if (!numbers.empty())
                steps += fmt::format(";{}={}@{}", row.name, strategy, fmt::join(numbers, ","));
        }
    }
    return text + steps;
}

TimestepPolicyConfig TimestepPolicyConfig::from_text(std::string_view text) {
    TimestepPolicyConfig policy;
    for (const std::string_view entry : split_text(text, ';')) {
        const std::size_t equals = entry.find('='), at = entry.find('@');
        if (equals == std::string_view::npos || (at != std::string_view::npos && at < equals)) {
            throw InvalidArgument(fmt::format("[timestep] '{}' in the text of a policy is no entry", entry));
        }
        const std::string_view target = entry.substr(0, equals);
        const std::string_view strategy = entry.substr(equals + 1, at - equals - 1);
        if (at == std::string_view::npos) {
            policy.set_default(entry.substr(equals + 1), target);
            continue;
        }
        std::vector<int> steps;
        for (const std::string_view number : split_text(entry.substr(at + 1), ',')) {
            steps.push_back(step_number(number));
        }
        policy.register_steps(steps, strategy, target);
    }
    return policy;
}

}  // namespace aerogel
