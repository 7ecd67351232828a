// Rows out of the tables of schemes, algorithms and kernels; nothing is known here.
#include "cli/scheme_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <vector>

#include "base/cpu_features.h"
#include "formats/mx.h"
#include "kernels/linear.h"
#include "quant/algorithms/algorithm.h"
#include "quant/schemes.h"

namespace aerogel::cli {
namespace {

using Names = std::vector<std::string_view>;

std::string_view data_needed(const SchemeRow& scheme) {
    if (!scheme.needs_calibration) return "none";
    return scheme.per_step ? "activation ranges per step" : "activation ranges";
}

Names algorithms_for(const SchemeRow& scheme) {
    Names names;
    for (const AlgorithmRow& row : algorithms()) {
        if (row.format == scheme.weight) names.push_back(row.name);
    }
    return names;
}

// Best first: those of this machine's level that take the scheme with the groups it has unless told
// otherwise.
Names kernels_for(const SchemeRow& scheme) {
    LinearProblem problem;
    problem.n = problem.k = 512;
    problem.weight = scheme.weight;
    problem.activation = scheme.activation;
    problem.group_size = is_mx(scheme.weight) ? kMxBlock : scheme.group_size;
    Names names;
    for (const LinearKernel& kernel : linear_kernels()) {
        if (kernel.level <= cpu_level() && kernel.why_not(problem).empty()) names.push_back(kernel.name);
    }
    return names;
}

Names names_of(std::span<const std::string_view> names) {
    return {names.begin(), names.end()};
}

}  // namespace

std::string scheme_list_text() {
    constexpr std::string_view kLine = "{:<21} {:<11} {:<15} {:<27} {:<12} {:<31} {}";
    std::string text = fmt::format(kLine, "scheme", "weight", "activation", "data needed", "calibration",
                                   "kernels here", "aliases");
    for (const SchemeRow& row : schemes()) {
        text += "\n" + fmt::format(kLine, row.name, to_string(row.weight), to_string(row.activation),
                                   data_needed(row), fmt::format("{}", fmt::join(algorithms_for(row), ", ")),
                                   fmt::format("{}", fmt::join(kernels_for(row), ", ")),
                                   fmt::format("{}", fmt::join(row.aliases, ", ")));
        while (text.back() == ' ') text.pop_back();
    }
    return text;
}

nlohmann::ordered_json scheme_list_json() {
    auto list = nlohmann::ordered_json::array();
    for (const SchemeRow& row : schemes()) {
        list.push_back({{"scheme", row.name},
                        {"summary", row.summary},
                        {"aliases", names_of(row.aliases)},
                        {"read_as", names_of(row.file_names)},
                        {"weight", to_string(row.weight)},
                        {"activation", to_string(row.activation)},
                        {"data", data_needed(row)},
                        {"groups", row.groups},
                        {"group_size", row.group_size},
                        {"calibrations", algorithms_for(row)},
                        {"kernels", kernels_for(row)}});
    }
    return {{"cpu_level", to_string(cpu_level())}, {"schemes", std::move(list)}};
}

}  // namespace aerogel::cli
