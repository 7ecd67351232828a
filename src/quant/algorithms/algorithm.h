// The table of quantization algorithms: how the stored weights of a format are chosen. They only
// write values; formats, schemes and kernels do not know them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// What users choose about the stored weights.
struct WeightOptions {
    std::int64_t group_size = 0;  ///< columns per scale, 0 = whole row; kSchemeGroups in LayerChoices only
    bool symmetric = true;        ///< no offsets
    bool narrow = false;          ///< minmax: symmetric int8 from -127 on and not from -128
};

struct AlgorithmRow {
    std::string_view name;  ///< "minmax"
    Format format;          ///< what it writes
    /// weight f32|bf16|f16 [n,k], contiguous -> its quantized form. InvalidArgument when it is not finite or
    /// the options do not suit the format.
    QuantizedTensor (*quantize)(const TensorView& weight, const WeightOptions& options);
    std::string_view summary;
};

/// An algorithm that looks at recorded inputs of the layer.
struct InputAlgorithmRow {
    std::string_view name;  ///< "gptq"
    Format format;
    /// weight f32|bf16|f16 [n,k], inputs x f32|bf16|f16 [tokens,k].
    QuantizedTensor (*quantize)(const TensorView& weight, const TensorView& inputs,
                                const WeightOptions& options);
    std::string_view summary;
};

/// A way to move outliers of the inputs into the weight before that is quantized, by whatever algorithm.
struct SmoothingRow {
    std::string_view name;  ///< "smoothquant"
    /// weight f32|bf16|f16 [n,k], inputs x [tokens,k] -> s f32 [k]: x is divided by it, the weight
    /// multiplied. `format` is what the weight will be quantized to; Unsupported where the search knows other
    /// formats only.
    Tensor (*scales)(const TensorView& weight, const TensorView& inputs, Format format,
                     const WeightOptions& options);
    std::string_view summary;
};

std::span<const AlgorithmRow> algorithms();
std::span<const InputAlgorithmRow> input_algorithms();
std::span<const SmoothingRow> smoothings();
/// The row, or null.
const InputAlgorithmRow* find_input_algorithm(std::string_view name, Format format);
const SmoothingRow* find_smoothing(std::string_view name);
/// InvalidArgument listing what is there when no row has this name and writes this format, or saying that the
/// algorithm needs recorded inputs.
const AlgorithmRow& algorithm_row(std::string_view name, Format format);

}  // namespace aerogel
