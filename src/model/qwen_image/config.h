// config.json of diffusers' QwenImageTransformer2DModel.
#pragma once

#include <cstdint>
#include <filesystem>

#include "aerogel/transformer.h"
#include "model/rotary.h"

namespace aerogel {

/// The fields of config.json. The base's in_channels are those of the latents (in_channels of config.json
/// counts them patch by patch), its text_dim is joint_attention_dim.
struct QwenImageConfig : TransformerConfig {
    /// As QwenEmbedRope: axes_dims_rope.
    RotaryAxes rotary = {{16, 56, 56}, 10000.0, AngleSteps::single};

    /// Reads config.json; InvalidArgument on missing or wrong content, and for what is not supported:
    /// guidance_embeds, zero_cond_t, use_additional_t_cond, use_layer3d_rope.
    static QwenImageConfig read(const std::filesystem::path& path);
    std::int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
};

}  // namespace aerogel
