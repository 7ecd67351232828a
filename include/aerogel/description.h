// The quantization description ("quant_model_description_*.json"): which scheme each tensor of a
// quantized model belongs to. Read liberally (both exporters' forms), written exactly.
// layer: core
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace aerogel {

/// The two forms in which exporters write a quantized pair: v0 is msmodelslim's older one, v1 that of
/// its `mindie_format_saver`. Both are read. comfy is a checkpoint of ComfyUI: one file, which has no
/// description.
enum class PairLayout : std::uint8_t { v0, v1, comfy };

/// One description: `model_quant_type` and (tensor name -> quant type) in file order; what is read has types
/// in upper case.
struct QuantDescription {
    std::string model_quant_type = {};
    std::vector<std::pair<std::string, std::string>> entries = {};

    /// Reads a description. IoError / InvalidArgument (file, key, expected, got).
    static QuantDescription read(const std::filesystem::path& path);
    /// The same from a text; `where` ("[description] FILE") begins every error.
    static QuantDescription parse(std::string_view text, const std::string& where);
    /// Writes it through a temporary name: v0 with indent 2 and `model_quant_type` first, v1 with indent 4
    /// and `model_quant_type` last. IoError; InvalidArgument for names that are not UTF-8, and for comfy.
    void write(const std::filesystem::path& path, PairLayout layout = PairLayout::v0) const;
    /// The quant type of a tensor, or an empty string.
    std::string type_of(const std::string& tensor_name) const;
};

/// "quant_model_description_w8a8_dynamic.json" (or "..._{rank}.json" when rank >= 0).
std::string description_file_name(const std::string& quant_type, int rank = -1);
/// "quant_model_weight_w8a8_dynamic.safetensors" (or "..._{rank}.safetensors" when rank >= 0).
std::string weight_file_name(const std::string& quant_type, int rank = -1);
/// The weight file that belongs to a description: same folder, the name derived from its
/// `model_quant_type`, and the rank suffix of the description's own name if it has one.
std::filesystem::path weight_path_of(const std::filesystem::path& description_path,
                                     const QuantDescription& description);

}  // namespace aerogel
