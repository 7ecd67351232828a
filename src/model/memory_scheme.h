// How a component that is too large for this machine's memory is quantized when nobody says how.
#pragma once

#include <filesystem>
#include <optional>

#include "aerogel/quant_config.h"

namespace aerogel {

/// None where the weights in this folder (.safetensors) fit into half of the usable memory, else W8A16, or
/// W4A16 in groups of 64 where eight bits do not fit either. None for a folder without weights.
std::optional<OnlineQuantConfig> scheme_for_memory(const std::filesystem::path& folder);

}  // namespace aerogel
