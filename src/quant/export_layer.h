// The tensors of one quantized layer as they are stored.
#pragma once

#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "quant/export.h"
#include "quant/float_layer.h"

namespace aerogel {

/// True for tensors that stay float and are listed so: bias, low-rank factors.
bool is_float_tensor(const std::string& name);

/// Names, types and shapes that quantize_layer() will return, in the same order.
std::vector<TensorInfo> stored_tensors(const FloatLayer& layer, const ExportOptions& options);

struct StoredLayer {
    std::vector<Tensor> tensors;
    double relative_error = 0.0;
};
StoredLayer quantize_layer(const FloatLayer& layer, const ExportOptions& options);

}  // namespace aerogel
