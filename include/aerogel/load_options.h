// How a model is loaded: where its weights go, and what becomes of them on the way.
// layer: model
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "aerogel/quant_config.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Of one component of a pipeline (transformer, text encoder). At most one of `online` and `quantized`.
struct LoadOptions {
    Device device = {};
    /// Quantizes to this scheme while the weights are read: as quantize(model, config).
    std::optional<OnlineQuantConfig> online = std::nullopt;
    /// A quantized pair, its description or its folder: as quantize(model, description). Empty: none.
    std::filesystem::path quantized = {};
    int rank = -1;  ///< of the pair, -1: taken from the description's file name
    /// Told what became of the layers, where something was quantized.
    std::function<void(const QuantizeReport& report)> on_quantized = {};
};

}  // namespace aerogel
