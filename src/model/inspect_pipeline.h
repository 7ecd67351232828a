// The components of a pipeline folder: what they are, whether Aerogel runs them, and the memory that their
// weights need.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "model/families.h"

namespace aerogel {

struct ComponentsReport {
    nlohmann::ordered_json json;  ///< "pipeline", "supported", "components"
    std::string text;
};

/// Of a folder with model_index.json. InvalidArgument, IoError for files that cannot be read; a class that is
/// not supported is said in the report, with those that are.
ComponentsReport inspect_components(const std::filesystem::path& folder, std::span<const FamilyRow> rows);

}  // namespace aerogel
