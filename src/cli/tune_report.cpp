// Text and JSON of a tuned model.
#include "cli/tune_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/cpu_features.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

const std::string& choice_name(const TuneReport& report, const MeasuredMixture& row, std::size_t module) {
    return report.tuned.problem.modules[module].choices[static_cast<std::size_t>(row.choices[module])].name;
}

std::string row_text(const TuneReport& report, const MeasuredMixture& row, const std::string& name) {
    std::string text = fmt::format("{:<28} {:>9.2f} MB", name, row.bytes / 1e6);
    if (report.seconds) text += fmt::format(" {:>9.4f} s", row.cost);
    return text + fmt::format(" {:>10.4f}   {:.4f}\n", row.error(), fmt::join(row.errors, " "));
}

// How many modules took what.
std::string counts_text(const TuneReport& report) {
    std::map<std::string, int> counts;
    for (std::size_t m = 0; m < report.tuned.problem.modules.size(); ++m)
        ++counts[choice_name(report, report.tuned.result.best, m)];
    std::string text;
    for (const auto& [name, count] : counts)
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, name);
    return text;
}

Json row_json(const TuneReport& report, const MeasuredMixture& row) {
    Json json = {{"name", row.name},
                 {"bytes", row.bytes},
                 {"error", row.error()},
                 {"errors", row.errors},
                 {"predicted_error", row.predicted}};
    if (report.seconds) json["seconds"] = row.cost;
    return json;
}

}  // namespace

std::string to_text(const TuneReport& report) {
    const TuneResult& result = report.tuned.result;
    std::string text =
        fmt::format("{:<28} {:>12}{} {:>10}   by steps from {}\n", "", "size",
                    report.seconds ? "     a pass" : "", "error", fmt::join(report.tuned.first_steps, ", "));
    text += fmt::format("{:<28} {:>9.2f} MB\n", "unchanged", report.tuned.float_bytes / 1e6);
    for (const MeasuredMixture& row : result.uniform) text += row_text(report, row, "all " + row.name);
    text += row_text(report, result.best,
                     result.best.name == "mixed" ? "chosen" : "chosen: all " + result.best.name);
    const double cost = result.best.cost;
    text += fmt::format("{}\nno mixture whose errors add up to this one's is more than {:.1f} % {}\n",
                        counts_text(report), 100.0 * std::max(0.0, cost - result.least_cost) / cost,
                        report.seconds ? "faster" : "smaller");
    return text;
}

Json to_json(const TuneReport& report) {
    const TunedModel& tuned = report.tuned;
    Json json = {{"model", report.model},
                 {"recipe", report.recipe.string()},
                 {"cpu", {{"name", cpu_name()}, {"level", to_string(cpu_level())}}},
                 {"float_bytes", tuned.float_bytes},
                 {"first_steps", tuned.first_steps},
                 {"best", row_json(report, tuned.result.best)},
                 {"least_cost", tuned.result.least_cost},
                 {"uniform", Json::array()},
                 {"tried", Json::array()},
                 {"modules", Json::array()}};
    for (const MeasuredMixture& row : tuned.result.uniform) json["uniform"].push_back(row_json(report, row));
    for (const MeasuredMixture& row : tuned.result.tried) json["tried"].push_back(row_json(report, row));
    for (std::size_t m = 0; m < tuned.problem.modules.size(); ++m) {
        const TuneModule& module = tuned.problem.modules[m];
        Json entry = {{"name", module.name}, {"chosen", choice_name(report, tuned.result.best, m)}};
        for (std::size_t c = 0; c < module.choices.size(); ++c) {
            Json choice = {{"bytes", module.choices[c].bytes}, {"errors", tuned.result.alone[m][c]}};
            if (report.seconds) choice["seconds"] = module.choices[c].cost;
            entry["choices"][module.choices[c].name] = std::move(choice);
        }
        json["modules"].push_back(std::move(entry));
    }
    return json;
}

std::vector<std::string> recipe_comment(const TuneReport& report) {
    const MeasuredMixture& best = report.tuned.result.best;
    return {fmt::format("Made by `aerogel tune`: {:.2f} MB instead of {:.2f}, error of the velocity {:.4f} "
                        "(by groups of steps",
                        best.bytes / 1e6, report.tuned.float_bytes / 1e6, best.error()),
            fmt::format("{:.4f}). {}.", fmt::join(best.errors, " "), counts_text(report)), use_of(report)};
}

std::string use_of(const TuneReport& report) {
    std::string text =
        fmt::format("aerogel quantize {} -o FOLDER --recipe {}", report.model, report.recipe.string());
    const auto& layers = report.tuned.layers;
    if (std::any_of(layers.begin(), layers.end(), [](const auto& layer) { return layer.second.packed; }))
        text += " --packed";
    if (!report.calibration.empty()) text += " --calibration " + report.calibration.string();
    return text;
}

}  // namespace aerogel::cli
