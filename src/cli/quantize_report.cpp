// Formatting only; the list is rows out of the tables of schemes, algorithms and kernels.
#include "cli/quantize_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <vector>

#include "base/cpu_features.h"
#include "core/text.h"
#include "formats/mx.h"
#include "ops/machines.h"
#include "quant/algorithms/algorithm.h"
#include "quant/schemes.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

// Layers per scheme; a mixed file has several.
std::map<std::string, std::size_t> scheme_counts(const ExportReport& report) {
    std::map<std::string, std::size_t> counts;
    for (const auto& layer : report.layers) ++counts[layer.quant_type];
    return counts;
}

std::int64_t widest_groups(const ExportReport& report) {
    std::int64_t widest = 0;
    for (const auto& layer : report.layers) widest = std::max(widest, layer.group_size);
    return widest;
}

// "one scale per 64 columns (18 layers), per row (2 layers)"; empty when all have one per row.
std::string groups_text(const ExportReport& report) {
    if (widest_groups(report) == 0) return "";
    std::map<std::int64_t, std::size_t> counts;
    for (const auto& layer : report.layers) ++counts[layer.group_size];
    std::vector<std::string> parts;
    for (const auto& [size, count] : counts) {
        const std::string per = size == 0 ? "row" : fmt::format("{} columns", size);
        parts.push_back(fmt::format("per {} ({})", per, counted(count, "layer")));
    }
    return fmt::format("one weight scale {}\n", fmt::join(parts, ", "));
}

Json calibration_json(const QuantizeResult& result) {
    Json json = {{"source", result.calibration->source}, {"steps", result.calibration->stats.steps()}};
    if (result.calibration->captions != 0) json["captions"] = result.calibration->captions;
    return json;
}

std::string calibration_text(const CalibrationRun& run) {
    return run.captions == 0
               ? fmt::format("calibration from {}, {}\n", run.source, counted(run.stats.steps(), "step"))
               : fmt::format("calibrated on {}, {} each\n", counted(run.captions, "caption"),
                             counted(run.stats.steps(), "step"));
}

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
    const Machine& cpu = machine_of(Device::cpu);
    for (const auto& row : cpu.linear) {
        if (cpu.why_not(Device::cpu, row.level).empty() && row.kernel->why_not(problem).empty())
            names.push_back(row.kernel->name);
    }
    return names;
}

Names names_of(std::span<const std::string_view> names) {
    return {names.begin(), names.end()};
}

// Each column as wide as its longest cell.
std::string aligned(const std::vector<std::vector<std::string>>& table) {
    std::vector<std::size_t> widths(table.front().size(), 0);
    for (const auto& row : table) {
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const auto& row : table) {
        if (!text.empty()) text += "\n";
        for (std::size_t i = 0; i < row.size(); ++i) text += fmt::format("{:<{}}  ", row[i], widths[i]);
        while (text.back() == ' ') text.pop_back();
    }
    return text;
}

}  // namespace

Json result_json(const QuantizeResult& result) {
    const ExportReport& report = result.report;
    Json json = {{"model", result.model}};
    if (!result.recipe.empty()) {
        json["recipe"] = result.recipe;
        json["schemes"] = scheme_counts(report);
        json["notes"] = result.notes;
    } else {
        json["scheme"] = result.options.quant_type();
        json["group_size"] = widest_groups(report);
        json["algorithm"] = result.options.algorithm;
        json["smoothing"] = result.options.smoothing;
        if (!result.notes.empty()) json["notes"] = result.notes;
    }
    json.update({{"layout", report.layout == PairLayout::v0   ? "v0"
                            : report.layout == PairLayout::v1 ? "v1"
                                                              : "comfy"},
                 {"description", report.description.string()},
                 {"weights", report.weights.string()},
                 {"bytes_before", report.bytes_before},
                 {"bytes_after", report.bytes_after},
                 {"bytes_resumed", report.bytes_resumed},
                 {"linear_layers", result.linears},
                 {"quantized_layers", report.layers.size()},
                 {"layers", Json::array()}});
    if (result.calibration) json["calibration"] = calibration_json(result);
    for (const auto& layer : report.layers) {
        json["layers"].push_back({{"name", layer.name},
                                  {"scheme", layer.quant_type},
                                  {"shape", {layer.n, layer.k}},
                                  {"group_size", layer.group_size},
                                  {"relative_error", layer.relative_error}});
    }
    return json;
}

std::string result_text(const QuantizeResult& result) {
    const ExportReport& report = result.report;
    std::vector<std::string> schemes;
    for (const auto& [scheme, count] : scheme_counts(report)) {
        schemes.push_back(result.recipe.empty() ? scheme : fmt::format("{} x {}", count, scheme));
    }
    std::string text = fmt::format("{}: {} of {} Linear layers quantized, {} -> {}\n",
                                   fmt::join(schemes, ", "), report.layers.size(), result.linears,
                                   show_bytes(static_cast<double>(report.bytes_before)),
                                   show_bytes(static_cast<double>(report.bytes_after)));
    text += groups_text(report);
    for (const std::string& note : result.notes) text += fmt::format("note: {}\n", note);
    if (result.calibration) text += calibration_text(*result.calibration);
    if (report.bytes_resumed != 0) {
        text += fmt::format("continued: {} were finished by an earlier run\n",
                            show_bytes(static_cast<double>(report.bytes_resumed)));
    }
    const auto worst =
        std::max_element(report.layers.begin(), report.layers.end(),
                         [](const auto& a, const auto& b) { return a.relative_error < b.relative_error; });
    text += fmt::format("largest relative weight error: {:.2e} ({})\n", worst->relative_error, worst->name);
    text += report.weights.string();
    return report.description.empty() ? text : text + "\n" + report.description.string();
}

std::string scheme_list_text() {
    std::vector<std::vector<std::string>> table = {
        {"scheme", "weight", "activation", "data needed", "algorithms", "kernels here", "aliases"}};
    for (const SchemeRow& row : schemes()) {
        table.push_back({std::string(row.name), std::string(to_string(row.weight)),
                         std::string(to_string(row.activation)), std::string(data_needed(row)),
                         fmt::format("{}", fmt::join(algorithms_for(row), ", ")),
                         fmt::format("{}", fmt::join(kernels_for(row), ", ")),
                         fmt::format("{}", fmt::join(row.aliases, ", "))});
    }
    return aligned(table);
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
                        {"algorithms", algorithms_for(row)},
                        {"kernels", kernels_for(row)}});
    }
    return {{"cpu_level", to_string(cpu_level())}, {"schemes", std::move(list)}};
}

}  // namespace aerogel::cli
