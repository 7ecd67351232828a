// config.json of diffusers' WanTransformer3DModel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "aerogel/transformer.h"

namespace aerogel {

/// The fields of config.json, same names and defaults.
struct WanConfig : TransformerConfig {
    std::int64_t freq_dim = 256;
    std::int64_t ffn_dim = 13824;
    bool cross_attn_norm = true;
    std::optional<std::string> qk_norm = "rms_norm_across_heads";
    float eps = 1e-6F;
    std::optional<std::int64_t> image_dim;
    std::optional<std::int64_t> added_kv_proj_dim;
    std::int64_t rope_max_seq_len = 1024;
    std::optional<std::int64_t> pos_embed_seq_len;

    /// Reads config.json; InvalidArgument on missing or wrong content.
    static WanConfig read(const std::filesystem::path& path);
    std::int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
};

}  // namespace aerogel
