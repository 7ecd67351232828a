// Patterns with one star.
#include "quant/original_names.h"

#include <algorithm>

namespace aerogel {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

}  // namespace

std::size_t OriginalName::parts() const {
    return static_cast<std::size_t>(
        std::count_if(names.begin(), names.end(), [](std::string_view name) { return !name.empty(); }));
}

std::optional<NameMatch> match_name(std::string_view pattern, std::string_view name) {
    const std::size_t star = std::min(pattern.find('*'), pattern.size());
    if (!name.starts_with(pattern.substr(0, star))) return std::nullopt;
    name.remove_prefix(star);
    NameMatch match;
    if (star < pattern.size()) {
        const auto end = std::find_if_not(name.begin(), name.end(), is_digit);
        match.number.assign(name.begin(), end);
        name.remove_prefix(match.number.size());
        const std::string_view behind = pattern.substr(star + 1);
        if (match.number.empty() || !name.starts_with(behind)) return std::nullopt;
        name.remove_prefix(behind.size());
    }
    if (!name.empty() && name.front() != '.') return std::nullopt;
    match.rest = name;
    return match;
}

std::string name_of(std::string_view pattern, const NameMatch& match) {
    std::string name(pattern);
    const std::size_t star = name.find('*');
    if (star != name.npos) name.replace(star, 1, match.number);
    return name + match.rest;
}

}  // namespace aerogel
