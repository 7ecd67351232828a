// Ranges as the exporter takes them: means over forwards.
#include "model/inspect_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace aerogel {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::vector<std::int64_t> forwards_by_step(const CalibrationStats& stats, const std::string& layer) {
    std::vector<std::int64_t> counts;
    for (int step = 0; step < stats.steps(); ++step) counts.push_back(stats.forwards(layer, step));
    return counts;
}

float width(const InputRange& range) {
    return range.max - range.min;
}

struct Row {
    std::string layer;
    InputRange range;
    std::int64_t forwards = 0;
    int unmeasured = 0;  ///< steps without a forward
};

std::vector<Row> rows_of(const CalibrationStats& stats) {
    std::vector<Row> rows;
    for (const std::string& layer : stats.layer_names()) {
        Row row{layer, stats.range(layer)};
        for (const std::int64_t count : forwards_by_step(stats, layer)) {
            row.forwards += count;
            row.unmeasured += static_cast<int>(count == 0);
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

}  // namespace

OrderedJson calibration_json(const std::string& path, const CalibrationStats& stats) {
    OrderedJson json = {
        {"kind", "calibration"}, {"file", path}, {"steps", stats.steps()}, {"layers", OrderedJson::array()}};
    for (const std::string& layer : stats.layer_names()) {
        OrderedJson by_step = OrderedJson::array();
        for (const InputRange& range : stats.ranges_by_step(layer)) by_step.push_back({range.min, range.max});
        const InputRange range = stats.range(layer);
        json["layers"].push_back({{"name", layer},
                                  {"forwards", forwards_by_step(stats, layer)},
                                  {"range", {range.min, range.max}},
                                  {"range_from_step", std::move(by_step)}});
    }
    return json;
}

std::string calibration_text(const std::string& path, const CalibrationStats& stats, bool all) {
    constexpr std::size_t kShown = 10;
    std::vector<Row> rows = rows_of(stats);
    std::string text =
        fmt::format("calibration statistics: {} layers, {} steps\n  {}", rows.size(), stats.steps(), path);
    const auto partly =
        std::count_if(rows.begin(), rows.end(), [](const Row& row) { return row.unmeasured; });
    if (partly != 0) text += fmt::format("\n{} layers did not run in every step", partly);
    if (!all) {
        std::stable_sort(rows.begin(), rows.end(),
                         [](const Row& a, const Row& b) { return width(a.range) > width(b.range); });
        if (rows.size() > kShown) rows.resize(kShown);
        text += "\nwidest mean ranges (--all lists every layer):";
    }
    for (const Row& row : rows) {
        text += fmt::format("\n  {:>12.4g} .. {:<12.4g} {:>6} forwards  {}", row.range.min, row.range.max,
                            row.forwards, row.layer);
    }
    return text;
}

}  // namespace aerogel
