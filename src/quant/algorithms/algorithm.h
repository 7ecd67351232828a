// The table of quantization algorithms: how the stored weights of a format are chosen. They only
// write values; formats, schemes and kernels do not know them.
#pragma once

#include <span>
#include <string_view>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

struct AlgorithmRow {
    std::string_view name;  ///< "minmax"
    Format format;          ///< what it writes
    /// weight f32|bf16|f16 [n,k], contiguous -> its quantized form. InvalidArgument when it is not finite.
    QuantizedTensor (*quantize)(const TensorView& weight);
    std::string_view summary;
};

std::span<const AlgorithmRow> algorithms();
/// InvalidArgument listing what is there when no row has this name and writes this format.
const AlgorithmRow& algorithm_row(std::string_view name, Format format);

}  // namespace aerogel
