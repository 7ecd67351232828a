// What `aerogel tune` found: as text, as JSON, and as a picture of error over size.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/tune.h"

namespace aerogel::cli {

struct TuneReport {
    std::string model;
    std::filesystem::path recipe, plot, calibration;
    const TunedModel& tuned;
    bool seconds = false;  ///< costs are seconds
};

std::string to_text(const TuneReport& report);
nlohmann::ordered_json to_json(const TuneReport& report);
/// SVG: the uniform mixtures, the measured ones, the chosen one, and the line that the modules let expect.
std::string to_svg(const TuneReport& report);
/// Lines for the top of the recipe.
std::vector<std::string> recipe_comment(const TuneReport& report);
/// "aerogel quantize ... --recipe FILE": how to use it.
std::string use_of(const TuneReport& report);

}  // namespace aerogel::cli
