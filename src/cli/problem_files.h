// The files of tests/problems, which the tests of the kernels and the benchmark share. They are part of the
// command: an installed one has no source tree beside it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel::cli {

std::string_view linear_problem_file();
std::string_view attention_problem_file();

/// One line of such a file: words "key=value".
struct ProblemLine {
    std::map<std::string, std::string> values;

    bool has(const std::string& key) const { return values.count(key) != 0; }
    /// InvalidArgument when there is no such key or it is no number.
    std::int64_t integer(const std::string& key) const;
    /// The values of key=a,b,c.
    std::vector<std::string> list(const std::string& key) const;
};

/// The lines with speed=, in the order of the file.
std::vector<ProblemLine> speed_problems(std::string_view file);

}  // namespace aerogel::cli
