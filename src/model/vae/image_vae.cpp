// AutoencoderKL (Rombach et al., High-resolution image synthesis with latent diffusion models, 2022) and
// AutoencoderKLFlux2, whose latents are normalised by a batch norm over squares of 2 x 2.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/config_values.h"
#include "model/vae/families.h"
#include "model/vae/time_layers.h"

namespace aerogel {
namespace {

constexpr ConvolutionForm kHalved = {.stride = {1, 2, 2}};
constexpr ConvolutionForm kDoubled = {.padding = {0, 1, 1}, .doubled = true};

struct ImageVaeConfig {
    std::vector<std::int64_t> widths = {64};
    std::vector<std::int64_t> decoder_widths;
    std::int64_t layers_per_block = 1;
    std::int64_t latent_channels = 4;
    std::int64_t groups = 32;
    bool quant_conv = true;
    bool post_quant_conv = true;
    bool attention = true;
};

void check_blocks(const JsonNode& json, const char* key, std::string_view only, std::size_t count) {
    if (!json.has(key)) return;
    const std::vector<JsonNode> items = json.at(key).items();
    for (const JsonNode& item : items) item.word({&only, 1});
    if (items.size() != count)
        json.at(key).fail(fmt::format("as many blocks as block_out_channels, {}", count));
}

void check_widths(const JsonNode& json, const std::vector<std::int64_t>& widths, std::int64_t groups) {
    for (const std::int64_t width : widths)
        if (width % groups != 0) json.fail(fmt::format("sizes that norm_num_groups {} divides", groups));
}

ImageVaeConfig read_config(const JsonNode& json, const ImageVaeConfig& defaults) {
    ImageVaeConfig config = defaults;
    if (json.has("block_out_channels")) config.widths = read_size_list(json.at("block_out_channels"));
    config.decoder_widths = config.widths;
    if (json.has("decoder_block_out_channels"))
        config.decoder_widths = read_size_list(json.at("decoder_block_out_channels"));
    read_size(json, "layers_per_block", kMostBlocks, config.layers_per_block);
    read_size(json, "latent_channels", kMostLatents, config.latent_channels);
    read_size(json, "norm_num_groups", config.groups);
    read_flag(json, "use_quant_conv", config.quant_conv);
    read_flag(json, "use_post_quant_conv", config.post_quant_conv);
    read_flag(json, "mid_block_add_attention", config.attention);
    check_blocks(json, "down_block_types", "DownEncoderBlock2D", config.widths.size());
    check_blocks(json, "up_block_types", "UpDecoderBlock2D", config.widths.size());
    for (const char* key : {"in_channels", "out_channels"})
        if (json.has(key)) json.at(key).whole({3, 3});
    require_word(json, "act_fn", "silu");
    check_widths(json.at("block_out_channels"), config.widths, config.groups);
    check_widths(json.at("decoder_block_out_channels"), config.decoder_widths, config.groups);
    if (config.decoder_widths.size() != config.widths.size())
        json.at("decoder_block_out_channels").fail("as many sizes as block_out_channels");
    return config;
}

class ImageVaeLoader {
  public:
    ImageVaeLoader(const ImageVaeConfig& config, Checkpoint& checkpoint)
        : config_(config), build_(checkpoint) {}

    void decode(VaeLayers& layers, std::size_t& tiled) {
        const std::int64_t latent = config_.latent_channels, low = config_.decoder_widths.back();
        if (config_.post_quant_conv) add_same(layers, "post_quant_conv", {latent, latent, {1, 1, 1}});
        add_same(layers, "decoder.conv_in", {latent, low});
        middle(layers, "decoder.mid_block", low);
        tiled = layers.size();
        std::int64_t in = low;
        const auto blocks = static_cast<std::int64_t>(config_.decoder_widths.size());
        for (std::int64_t i = 0; i < blocks; ++i) {
            const std::string block = fmt::format("decoder.up_blocks.{}", i);
            const std::int64_t out = config_.decoder_widths[static_cast<std::size_t>(blocks - 1 - i)];
            for (std::int64_t j = 0; j <= config_.layers_per_block; ++j, in = out)
                layers.push_back(residual(fmt::format("{}.resnets.{}", block, j), in, out));
            if (i + 1 < blocks) add(layers, block + ".upsamplers.0.conv", {out, out}, kDoubled);
        }
        layers.push_back(
            std::make_unique<NormLayer>(build_.group_norm("decoder.conv_norm_out", in, config_.groups)));
        add_same(layers, "decoder.conv_out", {in, 3});
    }

    void encode(VaeLayers& layers, std::size_t& tiled) {
        std::int64_t in = config_.widths.front();
        add_same(layers, "encoder.conv_in", {3, in});
        const std::size_t blocks = config_.widths.size();
        for (std::size_t i = 0; i < blocks; ++i) {
            const std::string block = fmt::format("encoder.down_blocks.{}", i);
            const std::int64_t out = config_.widths[i];
            for (std::int64_t j = 0; j < config_.layers_per_block; ++j, in = out)
                layers.push_back(residual(fmt::format("{}.resnets.{}", block, j), in, out));
            if (i + 1 < blocks) add(layers, block + ".downsamplers.0.conv", {out, out}, kHalved);
        }
        tiled = layers.size();
        middle(layers, "encoder.mid_block", in);
        layers.push_back(
            std::make_unique<NormLayer>(build_.group_norm("encoder.conv_norm_out", in, config_.groups)));
        // The mean of the distribution is the first half of the channels.
        const std::int64_t latent = config_.latent_channels;
        const ConvolutionForm form = {.padding = {0, 1, 1}};
        if (!config_.quant_conv) {
            layers.push_back(std::make_unique<ConvolutionLayer>(
                build_.halves("encoder.conv_out", {in, latent}, form).first, form));
            return;
        }
        add_same(layers, "encoder.conv_out", {in, 2 * latent});
        layers.push_back(std::make_unique<ConvolutionLayer>(
            build_.halves("quant_conv", {2 * latent, latent, {1, 1, 1}}, {}).first, ConvolutionForm{}));
    }

  private:
    void add(VaeLayers& layers, const std::string& name, const ConvolutionSizes& sizes,
             const ConvolutionForm& form) {
        layers.push_back(std::make_unique<ConvolutionLayer>(build_.convolution(name, sizes, form), form));
    }

    void add_same(VaeLayers& layers, const std::string& name, const ConvolutionSizes& sizes) {
        layers.push_back(std::make_unique<ConvolutionLayer>(build_.same(name, sizes), ConvolutionForm{}));
    }

    std::unique_ptr<VaeLayer> residual(const std::string& name, std::int64_t in, std::int64_t out) {
        ResidualLayer::Parts parts;
        parts.norm1 = build_.group_norm(name + ".norm1", in, config_.groups);
        parts.conv1 = build_.same(name + ".conv1", {in, out});
        parts.norm2 = build_.group_norm(name + ".norm2", out, config_.groups);
        parts.conv2 = build_.same(name + ".conv2", {out, out});
        if (in != out) parts.shortcut = build_.same(name + ".conv_shortcut", {in, out, {1, 1, 1}});
        return std::make_unique<ResidualLayer>(std::move(parts));
    }

    void middle(VaeLayers& layers, const std::string& name, std::int64_t width) {
        layers.push_back(residual(name + ".resnets.0", width, width));
        if (config_.attention) {
            const std::string attention = name + ".attentions.0";
            VaeAttentionLayer::Parts parts;
            parts.norm = build_.group_norm(attention + ".group_norm", width, config_.groups);
            parts.q = build_.matrix(attention + ".to_q", width, width, 2);
            parts.k = build_.matrix(attention + ".to_k", width, width, 2);
            parts.v = build_.matrix(attention + ".to_v", width, width, 2);
            parts.out = build_.matrix(attention + ".to_out.0", width, width, 2);
            parts.device = build_.device();
            layers.push_back(std::make_unique<VaeAttentionLayer>(std::move(parts)));
        }
        layers.push_back(residual(name + ".resnets.1", width, width));
    }

    const ImageVaeConfig& config_;
    VaeBuilder build_;
};

std::vector<float> filled(std::size_t count, double value) {
    return std::vector<float>(count, static_cast<float>(value));
}

ImageVaeConfig flux2_defaults() {
    ImageVaeConfig defaults;
    defaults.widths = {128, 256, 512, 512};
    defaults.layers_per_block = 2;
    defaults.latent_channels = 32;
    return defaults;
}

}  // namespace

VaeParts load_image_vae(const JsonNode& json, Checkpoint& checkpoint) {
    const ImageVaeConfig config = read_config(json, {});
    double scale = 0.18215, shift = 0.0;
    if (json.has("scaling_factor")) scale = json.at("scaling_factor").number(1e-6, 1e6);
    if (json.has("shift_factor")) shift = json.at("shift_factor").number(-1e6, 1e6);
    const auto channels = static_cast<std::size_t>(config.latent_channels);
    VaeParts parts;
    parts.shape = {config.latent_channels, std::int64_t{1} << (config.widths.size() - 1)};
    ImageVaeLoader loader(config, checkpoint);
    parts.decoder.layers.push_back(
        scale_channels(filled(channels, 1.0 / scale), filled(channels, shift), checkpoint.device()));
    loader.decode(parts.decoder.layers, parts.decoder.tiled);
    loader.encode(parts.encoder.layers, parts.encoder.tiled);
    parts.encoder.layers.push_back(
        scale_channels(filled(channels, scale), filled(channels, -shift * scale), checkpoint.device()));
    return parts;
}

VaeParts load_flux2_vae(const JsonNode& json, Checkpoint& checkpoint) {
    const ImageVaeConfig config = read_config(json, flux2_defaults());
    std::vector<std::int64_t> patch = {2, 2};
    read_sizes(json, "patch_size", patch);
    if (patch != std::vector<std::int64_t>{2, 2}) json.at("patch_size").fail("[2, 2]");
    float epsilon = 1e-4F;
    read_eps(json, "batch_norm_eps", epsilon);
    const std::int64_t channels = 4 * config.latent_channels;
    const Tensor mean = checkpoint.take_f32("bn.running_mean", {channels});
    const Tensor variance = checkpoint.take_f32("bn.running_var", {channels});
    checkpoint.ignore("bn.num_batches_tracked");
    VaeParts parts;
    parts.shape = {channels, std::int64_t{2} << (config.widths.size() - 1)};
    std::vector<float> factor = filled(static_cast<std::size_t>(channels), 1.0), shift = factor;
    std::vector<float> back = factor, back_shift = factor;
    if (mean.defined() && variance.defined()) {
        const std::vector<float> means = mean.values(), variances = variance.values();
        for (std::size_t i = 0; i < factor.size(); ++i) {
            factor[i] = std::sqrt(std::max(variances[i], 0.0F) + epsilon);
            shift[i] = means[i];
            back[i] = 1.0F / factor[i];
            back_shift[i] = -means[i] / factor[i];
        }
    }
    using Patches = PatchLayer;
    ImageVaeLoader loader(config, checkpoint);
    parts.decoder.layers.push_back(scale_channels(factor, shift, checkpoint.device()));
    parts.decoder.layers.push_back(
        std::make_unique<Patches>(2, Patches::Order::lines_first, Patches::Way::to_pixels));
    loader.decode(parts.decoder.layers, parts.decoder.tiled);
    loader.encode(parts.encoder.layers, parts.encoder.tiled);
    parts.encoder.layers.push_back(
        std::make_unique<Patches>(2, Patches::Order::lines_first, Patches::Way::to_channels));
    parts.encoder.layers.push_back(scale_channels(back, back_shift, checkpoint.device()));
    return parts;
}

}  // namespace aerogel
