// quantize(model, description): turns a loaded float model's Linears into QuantizedLinears.
// layer: model
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/wan.h"

namespace aerogel {

struct QuantizeOptions {
    int rank = -1;              ///< -1: the description's own name decides
    int first_static_step = 0;  ///< W8A8_TIMESTEP policy, see QuantizedLinearWeights
};

/// What happened to each Linear.
struct QuantizeReport {
    struct Layer {
        std::string name;
        std::string scheme;  ///< "W8A8_DYNAMIC", or "FLOAT"
        std::string why;     ///< why it stayed float ("marked FLOAT", "not in the description"), else empty
    };
    std::vector<Layer> layers;
    std::size_t bytes_before = 0;
    std::size_t bytes_after = 0;
};

/// Replaces every Linear that the description quantizes. InvalidArgument when the description names a layer
/// the model lacks or a tensor's shape does not fit (the model is left as it was); Unsupported for a scheme
/// not there.
QuantizeReport quantize(WanTransformer& model, const std::filesystem::path& description_path,
                        const QuantizeOptions& options = {});

}  // namespace aerogel
