// Pattern matching by brace expansion and backtracking over stars.
#include "quant/layer_patterns.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

// Position of the brace that closes the one at `open`, and the commas between them at the same depth.
std::size_t closing_brace(std::string_view pattern, std::size_t open, std::vector<std::size_t>& commas) {
    int depth = 0;
    for (std::size_t i = open; i < pattern.size(); ++i) {
        if (pattern[i] == '{') ++depth;
        if (pattern[i] == ',' && depth == 1) commas.push_back(i);
        if (pattern[i] == '}' && --depth == 0) return i;
    }
    throw InvalidArgument(fmt::format("[quantize] pattern '{}' has a brace that is not closed", pattern));
}

void expand_braces(const std::string& pattern, std::vector<std::string>& out) {
    const std::size_t open = pattern.find('{');
    if (open == std::string::npos) {
        out.push_back(pattern);
        return;
    }
    std::vector<std::size_t> cuts = {open};
    const std::size_t close = closing_brace(pattern, open, cuts);
    cuts.push_back(close);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        expand_braces(pattern.substr(0, open) + pattern.substr(cuts[i] + 1, cuts[i + 1] - cuts[i] - 1) +
                          pattern.substr(close + 1),
                      out);
    }
}

// Matches c against the set that starts at pattern[at] == '['; moves `at` behind it. A '[' that is never
// closed stands for itself, as in the shell.
bool set_matches(std::string_view pattern, std::size_t& at, char c) {
    std::size_t i = at + 1;
    const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
    if (negated) ++i;
    const std::size_t close = pattern.find(']', i + 1);
    if (close == std::string_view::npos) {
        ++at;
        return c == '[';
    }
    bool found = false;
    for (; i < close; ++i) {
        if (i + 2 < close && pattern[i + 1] == '-') {
            found = found || (pattern[i] <= c && c <= pattern[i + 2]);
            i += 2;
        } else {
            found = found || pattern[i] == c;
        }
    }
    at = close + 1;
    return found != negated;
}

bool matches_plain(std::string_view pattern, std::string_view name) {
    std::size_t p = 0, n = 0;
    std::size_t star = std::string_view::npos, star_name = 0;
    while (n < name.size()) {
        std::size_t next = p + 1;
        bool same = false;
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            star_name = n;
            continue;
        }
        if (p < pattern.size()) {
            next = p;
            if (pattern[p] == '[') {
                same = set_matches(pattern, next, name[n]);
            } else {
                ++next;
                same = pattern[p] == '?' || pattern[p] == name[n];
            }
        }
        if (same) {
            p = next;
            ++n;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            n = ++star_name;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

void check_pattern(const std::string& pattern, const std::vector<std::string>& names) {
    if (std::any_of(names.begin(), names.end(), [&](const auto& name) { return matches(pattern, name); })) {
        return;
    }
    if (names.empty()) throw InvalidArgument("[quantize] the model has no float Linear layers");
    throw InvalidArgument(
        fmt::format("[quantize] pattern '{}' matches none of the {} Linear layers ({} ... {}){}", pattern,
                    names.size(), names.front(), names.back(), suggestion(pattern, names)));
}

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const auto& pattern) { return matches(pattern, name); });
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
    std::vector<std::string> plain;
    expand_braces(std::string(pattern), plain);
    return std::any_of(plain.begin(), plain.end(),
                       [&](const std::string& candidate) { return matches_plain(candidate, name); });
}

std::vector<std::string> select_attentions(const std::vector<std::string>& names,
                                           std::vector<std::string> patterns) {
    if (patterns.empty()) patterns.emplace_back(kDefaultAttentions);
    for (const auto& pattern : patterns) {
        if (std::any_of(names.begin(), names.end(),
                        [&](const auto& name) { return matches(pattern, name); })) {
            continue;
        }
        throw InvalidArgument(
            fmt::format("[quantize] pattern '{}' matches none of the {} attention modules{}", pattern,
                        names.size(), suggestion(pattern, names)));
    }
    std::vector<std::string> selected;
    for (const auto& name : names) {
        if (matches_any(patterns, name)) selected.push_back(name);
    }
    return selected;
}

std::vector<std::string> select_layers(const std::vector<std::string>& names,
                                       const std::vector<std::string>& include,
                                       const std::vector<std::string>& exclude) {
    for (const auto& pattern : include) check_pattern(pattern, names);
    for (const auto& pattern : exclude) check_pattern(pattern, names);
    std::vector<std::string> selected;
    for (const auto& name : names) {
        if (matches_any(include, name) && !matches_any(exclude, name)) selected.push_back(name);
    }
    if (selected.empty()) {
        throw InvalidArgument(
            fmt::format("[quantize] no layer is left to quantize: include {}, exclude {} of {} Linear layers",
                        fmt::join(include, " "), fmt::join(exclude, " "), names.size()));
    }
    return selected;
}

}  // namespace aerogel
