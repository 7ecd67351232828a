// The schemes of LoadOptions::automatic. They are chosen by the sizes of a model's Linears alone, so that
// inspection tells what loading will do.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/layered_model.h"
#include "aerogel/quant_config.h"

namespace aerogel {

struct SizedLinear {
    std::string name;
    Shape shape;  ///< [out_features, in_features]
    DType dtype = DType::f32;
    std::size_t quantized_bytes = 0;  ///< of a layer that is quantized already, else 0
};

struct AutomaticRules {
    std::string_view layers;  ///< quantized by default
    LayeredModel::AutomaticSchemes schemes;
    double memory = 0.0;  ///< bytes that there are
};

struct AutomaticChoice {
    OnlineQuantConfig config;
    std::string scheme;        ///< in words, with that of the further layers
    double float_bytes = 0.0;  ///< of the Linears that are float, as they run
    double bytes = 0.0;        ///< of all Linears, as chosen
};

/// Bytes of a float Linear as it runs on the CPU: bf16 stays bf16 where that is multiplied, all else becomes
/// float32.
double running_bytes(DType dtype, const Shape& shape);

/// nullopt where the float weights take no more than half of the memory, or no default layer is float.
std::optional<AutomaticChoice> choose_schemes(std::span<const SizedLinear> linears,
                                              const AutomaticRules& rules);

}  // namespace aerogel
