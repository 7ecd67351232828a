// Lines of words "key=value"; '#' starts a comment.
#include "cli/problem_files.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>

#include "aerogel/error.h"

namespace aerogel::cli {

std::int64_t ProblemLine::integer(const std::string& key) const {
    const auto found = values.find(key);
    const std::string text = found == values.end() ? "" : found->second;
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        throw InvalidArgument(
            fmt::format("[bench] a problem needs {}= with a whole number, got '{}'", key, text));
    return value;
}

std::vector<std::string> ProblemLine::list(const std::string& key) const {
    std::vector<std::string> parts;
    std::istringstream text(values.at(key));
    for (std::string part; std::getline(text, part, ',');) parts.push_back(part);
    return parts;
}

std::vector<ProblemLine> speed_problems(std::string_view file) {
    std::vector<ProblemLine> problems;
    std::istringstream lines{std::string(file)};
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('#')) continue;
        ProblemLine problem;
        std::istringstream words(line);
        for (std::string word; words >> word;) {
            const std::size_t equals = word.find('=');
            if (equals != word.npos) problem.values[word.substr(0, equals)] = word.substr(equals + 1);
        }
        if (problem.has("speed")) problems.push_back(std::move(problem));
    }
    return problems;
}

}  // namespace aerogel::cli
