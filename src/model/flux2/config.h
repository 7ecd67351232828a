// config.json of diffusers' Flux2Transformer2DModel.
#pragma once

#include <cstdint>
#include <filesystem>

#include "aerogel/transformer.h"
#include "model/rotary.h"

namespace aerogel {

/// The fields of config.json, same names and defaults. The base's num_layers counts all blocks, its text_dim
/// is joint_attention_dim.
struct Flux2Config : TransformerConfig {
    std::int64_t num_double_layers = 8;  ///< num_layers of config.json: blocks with a stream for text
    std::int64_t num_single_layers = 48;
    std::int64_t timestep_guidance_channels = 256;
    std::int64_t mlp_hidden_dim = 0;  ///< inner_dim() * mlp_ratio
    RotaryAxes rotary = {{32, 32, 32, 32}, 2000.0};
    float eps = 1e-6F;

    /// Reads config.json; InvalidArgument on missing or wrong content, and for a patch_size other than 1.
    static Flux2Config read(const std::filesystem::path& path);
    std::int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
};

}  // namespace aerogel
