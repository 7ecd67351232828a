// Unknown keys are ignored, as diffusers does; a value of the wrong type or range is an error that names the
// key.
#include "model/wan/config.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "model/config_values.h"

namespace aerogel {
namespace {

void read_qk_norm(const JsonNode& json, std::optional<std::string>& value) {
    static constexpr std::array<std::string_view, 1> kNorms = {"rms_norm_across_heads"};
    if (!json.contains("qk_norm")) return;
    if (json.has("qk_norm")) {
        json.at("qk_norm").word(kNorms);
    } else {
        value = std::nullopt;
    }
}

void check(const WanConfig& config, const std::filesystem::path& path) {
    const std::string where = "[wan] " + path.string() + ": ";
    const std::int64_t head_dim = config.attention_head_dim;
    if (head_dim % 2 != 0 || head_dim > 256) {
        throw InvalidArgument(
            fmt::format("{}attention_head_dim must be even and at most 256, got {}", where, head_dim));
    }
    if (config.inner_dim() > kLargestSize) {
        throw InvalidArgument(fmt::format("{}{} heads of {} are too wide", where, config.num_attention_heads,
                                          config.attention_head_dim));
    }
    // The added projections read the embedded image tokens, which have the width of the model.
    if (config.added_kv_proj_dim && *config.added_kv_proj_dim != config.inner_dim()) {
        throw InvalidArgument(fmt::format("{}added_kv_proj_dim must be heads * head_dim = {}, got {}", where,
                                          config.inner_dim(), *config.added_kv_proj_dim));
    }
    if (config.pos_embed_seq_len && !config.image_dim) {
        throw InvalidArgument(where + "pos_embed_seq_len needs image_dim");
    }
}

}  // namespace

WanConfig WanConfig::read(const std::filesystem::path& path) {
    const JsonNode json = JsonNode::read(path, "wan");
    WanConfig config;
    read_sizes(json, "patch_size", config.patch_size);
    read_size(json, "num_attention_heads", config.num_attention_heads);
    read_size(json, "attention_head_dim", config.attention_head_dim);
    read_size(json, "in_channels", config.in_channels);
    config.out_channels = json.contains("out_channels") ? config.in_channels : WanConfig{}.out_channels;
    read_size(json, "out_channels", config.out_channels);
    read_size(json, "text_dim", config.text_dim);
    read_size(json, "freq_dim", config.freq_dim);
    read_size(json, "ffn_dim", config.ffn_dim);
    read_size(json, "num_layers", config.num_layers);
    read_flag(json, "cross_attn_norm", config.cross_attn_norm);
    read_qk_norm(json, config.qk_norm);
    read_eps(json, "eps", config.eps);
    read_optional_size(json, "image_dim", config.image_dim);
    read_optional_size(json, "added_kv_proj_dim", config.added_kv_proj_dim);
    read_size(json, "rope_max_seq_len", config.rope_max_seq_len);
    read_optional_size(json, "pos_embed_seq_len", config.pos_embed_seq_len);
    check(config, path);
    return config;
}

}  // namespace aerogel
