// What `aerogel quantize` did, for people and as JSON.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/quantize_calibration.h"
#include "quant/export.h"

namespace aerogel::cli {

struct QuantizeResult {
    std::string model;
    std::string recipe;    ///< its file, or empty
    LayerOptions options;  ///< of all layers, when there is no recipe
    std::size_t linears = 0;
    ExportReport report;
    std::optional<CalibrationRun> calibration;
    std::vector<std::string> notes;  ///< what the user should know about the recipe
};

nlohmann::ordered_json result_json(const QuantizeResult& result);
std::string result_text(const QuantizeResult& result);

}  // namespace aerogel::cli
