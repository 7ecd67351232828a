// What `aerogel inspect` says about a file of calibration statistics.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "quant/calibration.h"

namespace aerogel {

nlohmann::ordered_json calibration_json(const std::string& path, const CalibrationStats& stats);
/// `all` lists every layer; otherwise those with the widest ranges.
std::string calibration_text(const std::string& path, const CalibrationStats& stats, bool all);

}  // namespace aerogel
