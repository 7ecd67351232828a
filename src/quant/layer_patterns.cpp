// Selecting by patterns, with an error for one that selects nothing.
#include "quant/layer_patterns.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "aerogel/error.h"
#include "core/text.h"
#include "quant/name_pattern.h"

namespace aerogel {
namespace {

// Compiled once for all names.
std::vector<NamePattern> compiled(const std::vector<std::string>& patterns) {
    return {patterns.begin(), patterns.end()};
}

bool matches_any(const std::vector<NamePattern>& patterns, const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const NamePattern& pattern) { return pattern.matches(name); });
}

bool matches_some(const std::string& pattern, const std::vector<std::string>& names) {
    const NamePattern ready(pattern);
    return std::any_of(names.begin(), names.end(), [&](const auto& name) { return ready.matches(name); });
}

void check_pattern(const std::string& pattern, const std::vector<std::string>& names) {
    if (matches_some(pattern, names)) return;
    if (names.empty()) throw InvalidArgument("[quantize] the model has no float Linear layers");
    throw InvalidArgument(fmt::format(
        "[quantize] pattern {} matches none of the {} Linear layers ({} ... {}){}", in_quotes(pattern),
        names.size(), names.front(), names.back(), suggestion(pattern, names)));
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
    return NamePattern(pattern).matches(name);
}

std::string attention_of_queries(const std::string& linear) {
    for (const std::string_view ending : {".to_q", ".q", ".to_qkv_mlp_proj"}) {
        if (linear.ends_with(ending)) return linear.substr(0, linear.size() - ending.size());
    }
    return {};
}

std::vector<std::string> select_attentions(const std::vector<std::string>& names,
                                           std::vector<std::string> patterns) {
    if (patterns.empty()) patterns.emplace_back(kDefaultAttentions);
    for (const auto& pattern : patterns) {
        if (matches_some(pattern, names)) continue;
        throw InvalidArgument(fmt::format("[quantize] pattern {} matches none of the {} attention modules{}",
                                          in_quotes(pattern), names.size(), suggestion(pattern, names)));
    }
    const auto ready = compiled(patterns);
    std::vector<std::string> selected;
    for (const auto& name : names) {
        if (matches_any(ready, name)) selected.push_back(name);
    }
    return selected;
}

std::vector<std::string> select_layers(const std::vector<std::string>& names,
                                       const std::vector<std::string>& include,
                                       const std::vector<std::string>& exclude) {
    for (const auto& pattern : include) check_pattern(pattern, names);
    for (const auto& pattern : exclude) check_pattern(pattern, names);
    const auto in = compiled(include), out = compiled(exclude);
    std::vector<std::string> selected;
    for (const auto& name : names) {
        if (matches_any(in, name) && !matches_any(out, name)) selected.push_back(name);
    }
    if (selected.empty()) {
        throw InvalidArgument(
            fmt::format("[quantize] no layer is left to quantize: include {}, exclude {} of {} Linear layers",
                        fmt::join(include, " "), fmt::join(exclude, " "), names.size()));
    }
    return selected;
}

}  // namespace aerogel
