// Quantized checkpoints of other programs: a safetensors file, or the shards of an index, that says by itself
// or by a configuration beside it how its layers are quantized. docs/files.md lists the forms.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"

namespace aerogel {

/// A layer whose tensors are not ours.
struct ForeignLayer {
    std::string prefix;      ///< of its tensors: "model.diffusion_model.blocks.0.attn.qkv_proj"
    std::string format;      ///< as the file calls it: "int8_tensorwise"
    std::string quant_type;  ///< what it is here: "W8A8_DYNAMIC_CONVROT", or the file's word where nothing is
    /// Its tensors, that of the weight first; the bias, which is a tensor like others, is not among them.
    std::vector<std::string> tensors;
    std::int64_t n = 0, k = 0;
    /// Its arrays without the bias; null where the format is not supported.
    std::function<QuantizedLinearWeights(const SafetensorsFile& file)> read = {};

    /// Without what ComfyUI and stable-diffusion.cpp put in front of all names.
    std::string name() const;
};

struct ForeignCheckpoint {
    std::string_view program;  ///< "ComfyUI"; empty: the file is none of another program
    std::vector<ForeignLayer> layers;
    std::vector<std::string> marks;  ///< tensors that only say what the file is

    explicit operator bool() const { return !program.empty(); }
};

/// What the file is. InvalidArgument (file, tensor or key, expected, got) where it says that it is quantized
/// and its tensors do not fit that.
ForeignCheckpoint foreign_checkpoint(const SafetensorsFile& file);

/// Why a tensor that belongs to none of the layers cannot be a float: codes whose scale nothing tells. Empty:
/// nothing is wrong with it.
std::string unmarked_problem(const TensorInfo& info);

/// A layer with its bias, if the file has one. Unsupported naming the format and those that are read;
/// InvalidArgument as above. The result fits check_layer().
QuantizedLinearWeights read_foreign(const SafetensorsFile& file, const ForeignLayer& layer);

/// Some rows of a layer.
QuantizedLinearWeights rows_of(const QuantizedLinearWeights& layer, std::int64_t first, std::int64_t count);

}  // namespace aerogel
