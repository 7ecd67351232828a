// What a quantized layer is in a checkpoint of ComfyUI.
#pragma once

#include <vector>

#include "quant/export_layer.h"

namespace aerogel {

/// InvalidArgument where ComfyUI has no form of the scheme, or not with these choices or sizes.
void check_comfy_form(const StoredForm& form);

/// Weight, scales, the mark "<layer>.comfy_quant", and the bias in its own type.
std::vector<StoredTensor> comfy_tensors(const StoredForm& form);

/// The arrays of those tensors. fp8 weights get one scale for all rows, as ComfyUI wants it, and `chosen` is
/// made to hold what is written.
std::vector<Tensor> comfy_arrays(const StoredForm& form, const FloatLayer& layer,
                                 QuantizedLinearWeights& chosen);

}  // namespace aerogel
