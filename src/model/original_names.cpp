// Every Linear is tried with every row: a few thousand short comparisons.
#include "model/original_names.h"

#include <algorithm>
#include <cctype>
#include <optional>

namespace aerogel {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// What * is in `name`, if the pattern matches; empty where the pattern has none.
std::optional<std::string> number_in(std::string_view name, std::string_view pattern) {
    const std::size_t star = pattern.find('*');
    if (star == pattern.npos) return name == pattern ? std::optional<std::string>("") : std::nullopt;
    const std::string_view end = pattern.substr(star + 1);
    if (!name.starts_with(pattern.substr(0, star)) || !name.ends_with(end)) return std::nullopt;
    if (name.size() < star + end.size()) return std::nullopt;
    const std::string_view number = name.substr(star, name.size() - star - end.size());
    if (number.empty() || !std::all_of(number.begin(), number.end(), is_digit)) return std::nullopt;
    return std::string(number);
}

std::string with_number(std::string_view pattern, const std::string& number) {
    const std::size_t star = pattern.find('*');
    if (star == pattern.npos) return std::string(pattern);
    return std::string(pattern.substr(0, star)) + number + std::string(pattern.substr(star + 1));
}

std::size_t parts_of(const OriginalName& row) {
    return static_cast<std::size_t>(std::count_if(row.names.begin(), row.names.end(),
                                                  [](std::string_view name) { return !name.empty(); }));
}

}  // namespace

std::span<const OriginalName> LayeredModel::original_names() const {
    return {};
}

std::string lookup_name(std::string_view name) {
    std::string result(name);
    std::replace(result.begin(), result.end(), '.', '_');
    return result;
}

std::map<std::string, std::vector<NamedPart>> linears_by_name(const LayeredModel& model) {
    std::map<std::string, std::vector<NamedPart>> all;
    for (const std::string& linear : model.linear_names()) {
        all[lookup_name(linear)] = {{linear}};
        for (const OriginalName& row : model.original_names()) {
            const std::size_t parts = parts_of(row);
            for (std::size_t part = 0; part < parts; ++part) {
                const auto number = number_in(linear, row.names[part]);
                if (number)
                    all[lookup_name(with_number(row.original, *number))].push_back(
                        {linear, part, parts, row.swap_halves});
            }
        }
    }
    return all;
}

}  // namespace aerogel
