// The ways to store a Linear that `tune` chooses from, their bytes, and the recipe of a mixture.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/safetensors.h"
#include "quant/export.h"

namespace aerogel {

/// "W4A8", "W4A8/gptq", "W4A16/ssz/32", "W4A4_MXFP4_SVD": a scheme, and perhaps an algorithm and the columns
/// of a group.
struct TuneScheme {
    std::string name;      ///< as it was given
    LayerOptions options;  ///< int4 packed
};

/// InvalidArgument for a scheme, an algorithm or groups that are not there, and for those that a recipe
/// cannot name; Unsupported for static schemes, as their ranges are measured later.
TuneScheme tune_scheme(std::string_view text);

/// A Linear of a float model.
struct TuneLayer {
    TensorInfo weight;  ///< "<layer>.weight" f32|bf16|f16 [n,k]
    std::optional<TensorInfo> bias;
};

/// How the scheme stores this layer: the groups that fit, pairs of int4 where they come out even. nullopt
/// when it cannot.
std::optional<LayerOptions> options_for(const TuneScheme& scheme, const TuneLayer& layer);
/// Bytes of the layer in the files.
std::size_t stored_bytes(const LayerOptions& options, const TuneLayer& layer);

/// A recipe (quant/recipe.h) that stores layers so and quantizes the attention of modules by type. plan_of()
/// gives the same plan for it. `comment`: lines for its top.
std::string recipe_text(const LayerPlan& layers, const std::map<std::string, std::string>& attentions,
                        const std::vector<std::string>& comment);

}  // namespace aerogel
