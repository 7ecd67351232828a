// Unknown keys are ignored, as diffusers does; a value of the wrong type or range is an error that names the
// key.
#include "model/qwen_image/config.h"

#include <fmt/format.h>

#include <numeric>

#include "core/json.h"
#include "model/config_values.h"

namespace aerogel {
namespace {

// What variants of the class can do and this one cannot.
void refuse_variants(const JsonNode& json) {
    for (const char* key : {"guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"}) {
        bool wanted = false;
        read_flag(json, key, wanted);
        if (wanted) json.at(key).fail("false (this variant of Qwen-Image is not supported)");
    }
}

void read_channels(const JsonNode& json, QwenImageConfig& config) {
    std::int64_t patch = 2, packed = 64;
    read_size(json, "patch_size", patch);
    read_size(json, "in_channels", packed);
    config.patch_size = {1, patch, patch};
    config.out_channels = json.contains("out_channels") ? packed : 16;  // null: as in_channels
    read_size(json, "out_channels", config.out_channels);
    if (packed % (patch * patch) != 0)
        json.at("in_channels").fail(fmt::format("a multiple of patch_size squared = {}", patch * patch));
    config.in_channels = packed / (patch * patch);
}

void check(const QwenImageConfig& config, const JsonNode& json) {
    const std::int64_t head_dim = config.attention_head_dim;
    if (head_dim % 2 != 0 || head_dim > 256) json.at("attention_head_dim").fail("even and at most 256");
    if (config.inner_dim() > kLargestSize)
        json.at("num_attention_heads")
            .fail(fmt::format("at most {} for heads of {}", kLargestSize / head_dim, head_dim));
    const auto& dims = config.rotary.dims;
    for (const std::int64_t dim : dims)
        if (dim % 2 != 0) json.at("axes_dims_rope").fail("a list of three even sizes");
    if (std::accumulate(dims.begin(), dims.end(), std::int64_t{0}) != head_dim)
        json.at("axes_dims_rope").fail(fmt::format("sizes whose sum is attention_head_dim = {}", head_dim));
}

}  // namespace

QwenImageConfig QwenImageConfig::read(const std::filesystem::path& path) {
    const JsonNode json = JsonNode::read(path, "qwen_image");
    QwenImageConfig config;
    refuse_variants(json);
    config.num_layers = 60;
    config.num_attention_heads = 24;
    config.text_dim = 3584;
    config.expand_timesteps = false;
    read_channels(json, config);
    read_size(json, "num_layers", config.num_layers);
    read_size(json, "attention_head_dim", config.attention_head_dim);
    read_size(json, "num_attention_heads", config.num_attention_heads);
    read_size(json, "joint_attention_dim", config.text_dim);
    read_sizes(json, "axes_dims_rope", config.rotary.dims);
    check(config, json);
    return config;
}

}  // namespace aerogel
