// Unknown keys are ignored, as diffusers does; a value of the wrong type or range is an error that names the
// key.
#include "model/z_image/config.h"

#include <fmt/format.h>

#include <numeric>

#include "core/json.h"
#include "model/config_values.h"

namespace aerogel {
namespace {

void read_patch_sizes(const JsonNode& json, ZImageConfig& config) {
    std::vector<std::int64_t> patch = {2}, frames = {1};
    read_sizes(json, "all_patch_size", patch);
    read_sizes(json, "all_f_patch_size", frames);
    if (frames[0] != 1) json.at("all_f_patch_size").fail("[1] (patches of one frame)");
    config.patch_size = {1, patch[0], patch[0]};
}

void read_rotary(const JsonNode& json, ZImageConfig& config) {
    read_sizes(json, "axes_dims", config.rotary.dims);
    read_sizes(json, "axes_lens", config.axes_lens);
    if (json.has("rope_theta")) config.rotary.theta = json.at("rope_theta").number(1.0, 1e9);
    for (const std::int64_t dim : config.rotary.dims)
        if (dim % 2 != 0) json.at("axes_dims").fail("a list of three even sizes");
}

void check(const ZImageConfig& config, std::int64_t heads, const JsonNode& json) {
    if (config.dim % heads != 0) json.at("dim").fail(fmt::format("a multiple of n_heads = {}", heads));
    const std::int64_t head_dim = config.attention_head_dim;
    if (head_dim > 256) json.at("dim").fail(fmt::format("at most 256 * n_heads = {}", 256 * heads));
    const auto& dims = config.rotary.dims;
    if (std::accumulate(dims.begin(), dims.end(), std::int64_t{0}) != head_dim)
        json.at("axes_dims").fail(fmt::format("sizes whose sum is dim / n_heads = {}", head_dim));
}

}  // namespace

ZImageConfig ZImageConfig::read(const std::filesystem::path& path) {
    const JsonNode json = JsonNode::read(path, "z_image");
    ZImageConfig config;
    if (json.has("siglip_feat_dim"))
        json.at("siglip_feat_dim").fail("null (the omni model with SigLIP features is not supported)");
    std::int64_t heads = 30;
    config.text_dim = 2560;
    config.expand_timesteps = false;
    read_patch_sizes(json, config);
    read_size(json, "in_channels", config.in_channels);
    config.out_channels = config.in_channels;
    read_size(json, "dim", config.dim);
    read_size(json, "n_layers", config.n_layers);
    read_size(json, "n_refiner_layers", config.n_refiner_layers);
    read_size(json, "n_heads", heads);
    read_eps(json, "norm_eps", config.norm_eps);
    read_flag(json, "qk_norm", config.qk_norm);
    read_size(json, "cap_feat_dim", config.text_dim);
    if (json.has("t_scale")) config.t_scale = static_cast<float>(json.at("t_scale").number(1e-3, 1e6));
    read_rotary(json, config);
    config.num_layers = config.n_layers + config.n_refiner_layers;
    config.num_attention_heads = heads;
    config.attention_head_dim = config.dim / heads;
    check(config, heads, json);
    return config;
}

}  // namespace aerogel
