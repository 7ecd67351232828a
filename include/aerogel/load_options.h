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
    std::filesystem::path path = {};
    double weight = 1.0;
};

/// Of one component of a pipeline (transformer, text encoder). At most one of `online` and `quantized`.
struct LoadOptions {
    Device device = {};
    /// Weights in place of the folder's own: a .safetensors (or .index.json) or a GGUF file, with the names
    /// of diffusers or of the model's own code. GGUF's Q8_0 and Q4_0 run as they are stored (W8A16 and W4A16
    /// in groups of 32) unless `online` or `quantized` say otherwise; other blocks become float32. Empty:
    /// none.
    std::filesystem::path weights = {};
    /// Quantizes to this scheme while the weights are read: as quantize(model, config).
    std::optional<OnlineQuantConfig> online = std::nullopt;
    /// A quantized pair, its description or its folder: as quantize(model, description). Empty: none.
    std::filesystem::path quantized = {};
    /// Merged into the float weights, one after the other, before anything is quantized: as load_lora().
    /// Not with `quantized`, whose weights are what they are.
    std::vector<LoraFile> loras = {};
    int rank = -1;  ///< of the pair `quantized`, -1: taken from the description's file name
    /// Where nothing else is asked for and the float weights would take more than half of the memory:
    /// quantizes to W8A8_DYNAMIC, or to W4A8 where that would take more than half as well; a text encoder to
    /// W8A16 or W4A16. Of a model with many weights outside of its default layers (the modulation of
    /// Qwen-Image) these become W8A16 or W4A16, where that is still too much. QuantizeReport::because says
    /// so.
    bool automatic = false;
    /// Told what became of the layers, where something was quantized.
    std::function<void(const QuantizeReport& report)> on_quantized = {};
    /// Told after each layer that is quantized while loading what share of them is done; what it throws stops
    /// the loading and passes through.
    std::function<void(double done)> on_progress = {};
};

}  // namespace aerogel
