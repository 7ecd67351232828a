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
    std::int64_t group_size = 0;  ///< columns per scale, 0 = whole row
    bool symmetric = true;        ///< no offsets
};

struct AlgorithmRow {
    std::string_view name;  ///< "minmax"
    Format format;          ///< what it writes
    /// weight f32|bf16|f16 [n,k], contiguous -> its quantized form. InvalidArgument when it is not finite or
    /// the options do not suit the format.
    QuantizedTensor (*quantize)(const TensorView& weight, const WeightOptions& options);
    std::string_view summary;
};

std::span<const AlgorithmRow> algorithms();
/// InvalidArgument listing what is there when no row has this name and writes this format.
const AlgorithmRow& algorithm_row(std::string_view name, Format format);

}  // namespace aerogel
