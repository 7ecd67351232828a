// What is in a model, a quantized pair or any safetensors file, and what is wrong with it: the one answer
// behind `aerogel inspect` and the Python call of that name.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "model/families.h"

namespace aerogel {

struct InspectOptions {
    int rank = -1;     ///< of quantized files, and of nothing else; -1: as the name says
    bool all = false;  ///< the text lists every layer and tensor; the JSON always does
    std::span<const FamilyRow> known_families = families();
};

struct InspectReport {
    std::filesystem::path path;  ///< of the description or the weights that were read
    nlohmann::ordered_json json;
    std::string text;
    std::size_t problems = 0;
};

/// `path`: a .safetensors (or .index.json), a diffusers or pipeline folder, a quantization description or its
/// folder, or a file of calibration statistics. IoError, InvalidArgument for what cannot be read; what can be
/// read but not run is a problem of the report.
InspectReport inspect(const std::filesystem::path& path, const InspectOptions& options = {});

}  // namespace aerogel
