// Formatting only.
#include "cli/quantize_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "cli/command.h"
#include "core/text.h"

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
        parts.push_back(fmt::format("per {} ({} layer{})", per, count, count == 1 ? "" : "s"));
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
               ? fmt::format("calibration from {}, {} steps\n", run.source, run.stats.steps())
               : fmt::format("calibrated on {} captions, {} steps each\n", run.captions, run.stats.steps());
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
    }
    json.update({{"layout", report.layout == PairLayout::v0 ? "v0" : "v1"},
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
    return text + fmt::format("{}\n{}", report.weights.string(), report.description.string());
}

}  // namespace aerogel::cli
