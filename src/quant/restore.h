// From a quantized pair back to float tensors.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

#include "quant/load.h"

namespace aerogel {

/// The f32 matrix [n,k] that a layer's input is multiplied with in effect: dequantized, rotated back, with
/// the low-rank part added, columns times mul_scale.
Tensor restored_weight(const QuantizedLinearWeights& layer);

struct RestoreOptions {
    /// Called as layers and tensors are done; may throw to stop, then no file is left.
    std::function<void(std::size_t done, std::size_t total, const std::string& tensor)> progress;
};

/// Writes every tensor under the name it has in the float model: quantized weights as f32 [n,k] =
/// restored_weight(), residuals of layers that are not quantized with their low-rank part; all others as
/// stored, scales left out. Returns the number of quantized layers. Errors as QuantizedPair::read, IoError.
std::size_t restore_floats(const QuantizedPair& pair, const std::filesystem::path& path,
                           const RestoreOptions& options = {});

}  // namespace aerogel
