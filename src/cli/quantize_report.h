// What `aerogel quantize` tells, for people and as JSON: what it did, and the table of --list.
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

/// Every scheme with what it needs and what this machine has for it.
std::string scheme_list_text();
nlohmann::ordered_json scheme_list_json();

}  // namespace aerogel::cli
