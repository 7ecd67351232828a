// Writing a quantized pair from a float checkpoint, tensor after tensor: memory stays at the size of one
// layer, and an interrupted export goes on where it was. docs/files.md has the forms, docs/quantization.md
// the rest.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/description.h"
#include "quant/calibration.h"
#include "quant/float_layer.h"
#include "quant/schemes.h"
#include "quant/weight_file.h"

namespace aerogel {

/// How one layer is stored. kSchemeGroups mean a scale per row in layout v0, whose readers know nothing else.
struct LayerOptions : LayerChoices {
    const SchemeRow* scheme = nullptr;
    bool packed = false;  ///< int4 as pairs: of columns with a scale per row, of rows with groups

    /// Its type in the description: "W4A4_MXFP4_SVD".
    std::string quant_type() const { return quant_type_of(*scheme, *this); }
};

/// `choices` with the scheme of that name, and with what the suffixes of the name say (QuantType). Errors
/// as scheme_with_choices() and check_choices().
LayerOptions options_of_scheme(std::string_view name, LayerOptions choices);

/// The layers to quantize by name.
using LayerPlan = std::map<std::string, LayerOptions>;

struct ExportOptions {
    std::filesystem::path
        folder;  ///< made when missing; of layout comfy it may be the .safetensors file itself
    /// Unset: v1, or v0 for schemes that only the older exporter has (W8A8_TIMESTEP).
    std::optional<PairLayout> layout;
    /// Quantized attention beside the layers: module -> what its file entries hold.
    std::map<std::string, AttentionQuantization> attentions = {};
    int rank = -1;                                  ///< -1: no rank suffix
    const CalibrationStats* calibration = nullptr;  ///< for schemes that need it
    /// Called as source bytes are done. May throw to stop: what is finished stays in "<weights>.part", and
    /// the same export continues there; nothing stays of a model in memory.
    std::function<void(std::size_t done, std::size_t total, const std::string& tensor)> progress;
};

struct ExportReport {
    struct Layer {
        std::string name;
        std::string quant_type;
        std::int64_t n = 0;
        std::int64_t k = 0;
        std::int64_t group_size = 0;  ///< columns per scale, 0: the whole row
        double relative_error = 0.0;  ///< |W - dequantized| / |W|
    };
    std::filesystem::path description;  ///< empty in layout comfy
    std::filesystem::path weights;
    PairLayout layout = PairLayout::v1;
    std::vector<Layer> layers;
    std::size_t bytes_before = 0;  ///< of all tensors
    std::size_t bytes_after = 0;
    std::vector<std::string> notes;  ///< layers that are left float, against the plan
    std::size_t bytes_resumed = 0;   ///< of the source, finished by an earlier run that was interrupted
};

/// Names of the Linear layers of a checkpoint: those with a float matrix "<name>.weight"; blocks of GGUF
/// count as the floats that they mean.
std::vector<std::string> linear_layers(const WeightFile& model);

/// The same options for all `layers`.
LayerPlan uniform_plan(const std::vector<std::string>& layers, const LayerOptions& options);

/// Quantizes the planned layers and copies every other tensor. A layer that GGUF holds in just the form that
/// its options ask for (Q8_0 for W8A16, Q4_0 for W4A16, minmax in groups of 32) keeps its values. The
/// description takes its name last; its model_quant_type is the type of the last layer, and the files are
/// named after it. The bytes depend on model, plan, layout and calibration only, not on threads or
/// interruptions. InvalidArgument when a layer is missing, not finite or not calibrated, or the layout has no
/// form for a scheme; IoError.
ExportReport export_quantized(const WeightFile& model, const LayerPlan& plan, const ExportOptions& options);

}  // namespace aerogel
