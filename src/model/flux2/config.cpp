// Unknown keys are ignored, as diffusers does.
#include "model/flux2/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "aerogel/error.h"
#include "core/json.h"
#include "model/config_values.h"

namespace aerogel {
namespace {

constexpr double kLargestRatio = 64.0, kLargestTheta = 1e9;

void check(const Flux2Config& config, const std::filesystem::path& path) {
    const std::string where = "[flux2] " + path.string() + ": ";
    const auto& dims = config.rotary.dims;
    const bool even = std::all_of(dims.begin(), dims.end(), [](std::int64_t dim) { return dim % 2 == 0; });
    if (!even || std::accumulate(dims.begin(), dims.end(), std::int64_t{0}) != config.attention_head_dim) {
        throw InvalidArgument(
            fmt::format("{}axes_dims_rope must be even and sum to attention_head_dim = {}, got [{}]", where,
                        config.attention_head_dim, fmt::join(dims, ",")));
    }
    if (config.attention_head_dim > 256) {
        throw InvalidArgument(fmt::format("{}attention_head_dim must be at most 256, got {}", where,
                                          config.attention_head_dim));
    }
    if (config.inner_dim() > kLargestSize || config.mlp_hidden_dim > kLargestSize) {
        throw InvalidArgument(fmt::format("{}{} heads of {} are too wide", where, config.num_attention_heads,
                                          config.attention_head_dim));
    }
}

void read_numbers(const JsonNode& json, Flux2Config& config) {
    double ratio = 3.0;
    if (json.has("mlp_ratio")) ratio = json.at("mlp_ratio").number(0.0, kLargestRatio);
    config.mlp_hidden_dim = static_cast<std::int64_t>(static_cast<double>(config.inner_dim()) * ratio);
    if (config.mlp_hidden_dim < 1) json.at("mlp_ratio").fail("large enough for one hidden number");
    if (json.has("rope_theta")) config.rotary.theta = json.at("rope_theta").number(1.0, kLargestTheta);
    read_eps(json, "eps", config.eps);
}

}  // namespace

Flux2Config Flux2Config::read(const std::filesystem::path& path) {
    const JsonNode json = JsonNode::read(path, "flux2");
    Flux2Config config;
    config.patch_size = {1, 1, 1};
    if (json.has("patch_size")) json.at("patch_size").whole({1, 1});
    config.in_channels = 128;
    config.num_attention_heads = 48;
    config.text_dim = 15360;
    config.expand_timesteps = false;
    config.guidance_embeds = true;
    read_size(json, "in_channels", config.in_channels);
    config.out_channels = config.in_channels;
    read_size(json, "out_channels", config.out_channels);
    read_size(json, "num_attention_heads", config.num_attention_heads);
    read_size(json, "attention_head_dim", config.attention_head_dim);
    read_size(json, "joint_attention_dim", config.text_dim);
    read_size(json, "num_layers", config.num_double_layers);
    read_size(json, "num_single_layers", config.num_single_layers);
    config.num_layers = config.num_double_layers + config.num_single_layers;
    read_size(json, "timestep_guidance_channels", config.timestep_guidance_channels);
    read_sizes(json, "axes_dims_rope", config.rotary.dims);
    read_flag(json, "guidance_embeds", config.guidance_embeds);
    read_numbers(json, config);
    check(config, path);
    return config;
}

}  // namespace aerogel
