// What `aerogel inspect` found, for people and as JSON.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "model/inspect.h"
#include "quant/inspection.h"

namespace aerogel {

nlohmann::ordered_json pair_json(const QuantizedPair& pair, const PairInspection& inspection);
/// `all` lists every layer; otherwise layers are counted by scheme and shape.
std::string pair_text(const QuantizedPair& pair, const PairInspection& inspection, bool all);

/// `config`: config.json beside the weights, or empty.
nlohmann::ordered_json tensors_json(const SafetensorsFile& file, const std::filesystem::path& config);
std::string tensors_text(const SafetensorsFile& file, const std::filesystem::path& config,
                         const InspectOptions& options);

}  // namespace aerogel
