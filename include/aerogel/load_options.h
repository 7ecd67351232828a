// How a model is loaded: where its weights go, and what becomes of them on the way.
// layer: model
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "aerogel/quant_config.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Low-rank changes of a transformer's Linears in a file (aerogel/lora.h), and how much of them is added.
struct LoraFile {
    std::filesystem::path path;
    double weight = 1.0;
};

/// Of one component of a pipeline (transformer, text encoder). At most one of `online` and `quantized`.
struct LoadOptions {
    Device device = {};
    /// Quantizes to this scheme while the weights are read: as quantize(model, config).
    std::optional<OnlineQuantConfig> online = std::nullopt;
    /// A quantized pair, its description or its folder: as quantize(model, description). Empty: none.
    std::filesystem::path quantized = {};
    /// Merged into the float weights, one after the other, before anything is quantized: as load_lora().
    /// Not with `quantized`, whose weights are what they are.
    std::vector<LoraFile> loras = {};
    int rank = -1;  ///< of the pair, -1: taken from the description's file name
    /// Told what became of the layers, where something was quantized.
    std::function<void(const QuantizeReport& report)> on_quantized = {};
};

}  // namespace aerogel
