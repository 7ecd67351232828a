// Writing a quantized pair from a float checkpoint, tensor after tensor: memory stays at the size of
// one layer. The files are in the older exporter's form (FLOAT tensors included, scales in the
// model's type, int8 in [-127, 127]) where it has one for the scheme; see docs/quantization.md.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "quant/calibration.h"
#include "quant/float_layer.h"
#include "quant/schemes.h"

namespace aerogel {

struct ExportOptions : LayerChoices {
    std::filesystem::path folder;  ///< made when missing
    const SchemeRow* scheme = nullptr;
    bool packed = false;  ///< int4 as pairs: of columns with a scale per row, of rows with groups
    int rank = -1;        ///< -1: no rank suffix
    const CalibrationStats* calibration = nullptr;  ///< for schemes that need it
    /// Called as source bytes are done; may throw to stop, then nothing of the pair is left.
    std::function<void(std::size_t done, std::size_t total, const std::string& tensor)> progress;
};

struct ExportReport {
    struct Layer {
        std::string name;
        std::int64_t n = 0;
        std::int64_t k = 0;
        double relative_error = 0.0;  ///< |W - dequantized| / |W|
    };
    std::string quant_type;  ///< of the layers: "W4A4_MXFP4_SVD"
    std::filesystem::path description;
    std::filesystem::path weights;
    std::vector<Layer> layers;
    std::size_t bytes_before = 0;  ///< of all tensors
    std::size_t bytes_after = 0;
};

/// Names of the Linear layers of a float checkpoint: those with a float matrix "<name>.weight".
std::vector<std::string> linear_layers(const SafetensorsFile& model);

/// Quantizes `layers` and copies every other tensor. The description takes its name last. InvalidArgument
/// when a layer is missing, not finite or not calibrated; IoError.
ExportReport export_quantized(const SafetensorsFile& model, const std::vector<std::string>& layers,
                              const ExportOptions& options);

}  // namespace aerogel
