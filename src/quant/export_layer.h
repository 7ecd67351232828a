// The tensors of one quantized layer as they are stored.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "quant/export.h"

namespace aerogel {

/// A float layer of the checkpoint and how it is to be stored.
struct StoredForm {
    TensorInfo weight;               ///< f32|bf16|f16 [n,k] under its name in the checkpoint
    std::optional<TensorInfo> bias;  ///< [n]
    const LayerOptions& options;
    PairLayout layout;
    const CalibrationStats* calibration;

    std::string layer() const;  ///< the weight's name without ".weight"
    /// Recorded inputs of the layer where its choices need them, else undefined.
    Tensor inputs() const;
};

/// InvalidArgument when the layer cannot be stored so: options that its scheme does not have, groups that do
/// not divide the columns, sizes that cannot be packed, no calibration.
void check_form(const StoredForm& form);

struct StoredTensor {
    TensorInfo info;
    bool is_float;  ///< FLOAT in the description, not the layer's type
};

/// What quantize_layer() returns, in the order of the files.
std::vector<StoredTensor> stored_tensors(const StoredForm& form);

struct StoredLayer {
    std::vector<Tensor> tensors;
    double relative_error = 0.0;  ///< |W - restored| / |W| (Frobenius norms); 0 when W is zero
};

/// InvalidArgument, naming the layer, when its weight is not finite.
StoredLayer quantize_layer(const StoredForm& form, const FloatLayer& layer);

}  // namespace aerogel
