// AutoencoderKLWan (Wan 2.1 and 2.2; Wan team, Wan: open and advanced large-scale video generative models,
// 2025) and AutoencoderKLQwenImage, which is that of Wan 2.1.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "model/config_values.h"
#include "model/vae/families.h"
#include "model/vae/time_layers.h"

namespace aerogel {
namespace {

constexpr ConvolutionForm kHalvedSides = {.stride = {1, 2, 2}};
constexpr ConvolutionForm kDoubledSides = {.padding = {0, 1, 1}, .doubled = true};
constexpr Axes kCube = {3, 3, 3}, kPoint = {1, 1, 1}, kInTime = {3, 1, 1};

// The defaults of diffusers, of 16 channels.
constexpr std::array<float, 16> kLatentsMean = {-0.7571F, -0.7089F, -0.9113F, 0.1075F,  -0.1745F, 0.9653F,
                                                -0.1517F, 1.5508F,  0.4134F,  -0.0715F, 0.5517F,  -0.3632F,
                                                -0.1922F, -0.9497F, 0.2503F,  -0.2921F};
constexpr std::array<float, 16> kLatentsStd = {2.8184F, 1.4541F, 2.3275F, 2.6558F, 1.2196F, 1.7708F,
                                               2.6052F, 2.0743F, 3.2687F, 2.1526F, 2.8652F, 1.5579F,
                                               1.6382F, 1.1253F, 2.8251F, 1.9160F};

struct VideoVaeConfig {
    std::int64_t base_dim = 96;
    std::int64_t decoder_base_dim = 96;
    std::int64_t z_dim = 16;
    std::vector<std::int64_t> dim_mult = {1, 2, 4, 4};
    std::int64_t num_res_blocks = 2;
    std::vector<bool> time_down = {false, true, true};
    bool residual = false;
    std::int64_t patch = 1;
    std::vector<float> mean, deviation;

    std::size_t blocks() const { return dim_mult.size(); }
    std::int64_t width(std::int64_t base, std::size_t block) const { return base * dim_mult[block]; }
};

std::vector<float> numbers_or(const JsonNode& json, const char* key, std::int64_t count,
                              std::span<const float> defaults) {
    const double low = key == std::string_view("latents_std") ? 1e-6 : -1e6;
    if (!json.has(key)) {
        if (count != static_cast<std::int64_t>(defaults.size()))
            json.at(key).fail(fmt::format("a list of {} numbers", count));
        return {defaults.begin(), defaults.end()};
    }
    return read_numbers(json.at(key), static_cast<std::size_t>(count), low, 1e6);
}

// Widths of a residual decoder's shortcuts.
void check_repeats(const JsonNode& json, const VideoVaeConfig& config) {
    std::int64_t in = config.width(config.decoder_base_dim, config.blocks() - 1);
    for (std::size_t i = 0; i + 1 < config.blocks(); ++i) {
        const std::int64_t out = config.width(config.decoder_base_dim, config.blocks() - 1 - i);
        const bool time = config.time_down[config.blocks() - 2 - i];
        if (!RepeatingUpLayer::fits(in, out, time ? 2 : 1))
            json.at("dim_mult").fail(fmt::format("widths that repeat, not {} after {}", out, in));
        in = out;
    }
    in = config.base_dim;
    for (std::size_t i = 0; i < config.blocks(); ++i) {
        const std::int64_t out = config.width(config.base_dim, i);
        const bool down = i + 1 < config.blocks();
        const std::int64_t factor = down ? (config.time_down[i] ? 8 : 4) : 1;
        if (in * factor % out != 0)
            json.at("dim_mult").fail(fmt::format("widths that average, not {} after {}", out, in));
        in = out;
    }
}

VideoVaeConfig read_video_config(const JsonNode& json) {
    VideoVaeConfig config;
    read_size(json, "base_dim", kMostWidth, config.base_dim);
    config.decoder_base_dim = config.base_dim;
    read_size(json, "decoder_base_dim", kMostWidth, config.decoder_base_dim);
    read_size(json, "z_dim", kMostLatents, config.z_dim);
    if (json.has("dim_mult")) config.dim_mult = read_size_list(json.at("dim_mult"));
    read_size(json, "num_res_blocks", kMostBlocks, config.num_res_blocks);
    // diffusers cannot run attention in these blocks.
    if (json.has("attn_scales") && !json.at("attn_scales").items().empty())
        json.at("attn_scales").fail("an empty list");
    if (json.has("temperal_downsample")) {
        config.time_down.clear();
        for (const JsonNode& item : json.at("temperal_downsample").items())
            config.time_down.push_back(item.flag());
    }
    if (config.time_down.size() + 1 != config.blocks())
        json.at("temperal_downsample")
            .fail(fmt::format("{} flags, one less than dim_mult", config.blocks() - 1));
    read_flag(json, "is_residual", config.residual);
    read_size(json, "patch_size", config.patch);
    for (const char* key : {"in_channels", "out_channels", "input_channels"}) {
        const std::int64_t channels = 3 * config.patch * config.patch;
        if (json.has(key))
            json.at(key).whole({channels, channels});
        else if (config.patch != 1 && key != std::string_view("input_channels"))
            json.at(key).fail(std::to_string(channels));
    }
    config.mean = numbers_or(json, "latents_mean", config.z_dim, kLatentsMean);
    config.deviation = numbers_or(json, "latents_std", config.z_dim, kLatentsStd);
    if (!config.residual)
        for (std::size_t i = 0; i < config.blocks(); ++i)
            if (i > 0 && config.width(config.decoder_base_dim, i) % 2 != 0)
                json.at("dim_mult").fail("even widths");
    if (config.residual) check_repeats(json, config);
    return config;
}

class VideoVaeLoader {
  public:
    VideoVaeLoader(const VideoVaeConfig& config, Checkpoint& checkpoint)
        : config_(config), build_(checkpoint) {}

    std::size_t places() const { return build_.places(); }

    void decode(VaeLayers& layers, std::size_t& tiled) {
        const std::size_t blocks = config_.blocks();
        std::int64_t in = config_.width(config_.decoder_base_dim, blocks - 1);
        point(layers, "post_quant_conv", config_.z_dim);
        causal(layers, "decoder.conv_in", config_.z_dim, in);
        middle(layers, "decoder.mid_block", in);
        tiled = layers.size();
        for (std::size_t i = 0; i < blocks; ++i) in = up_block(layers, i, in);
        norm_out(layers, "decoder.norm_out", in);
        causal(layers, "decoder.conv_out", in, 3 * config_.patch * config_.patch);
    }

    void encode(VaeLayers& layers, std::size_t& tiled) {
        std::int64_t in = config_.base_dim;
        causal(layers, "encoder.conv_in", 3 * config_.patch * config_.patch, in);
        if (config_.residual) {
            residual_down_blocks(layers, in);
        } else {
            flat_down_blocks(layers, in);
        }
        tiled = layers.size();
        middle(layers, "encoder.mid_block", in);
        norm_out(layers, "encoder.norm_out", in);
        causal(layers, "encoder.conv_out", in, 2 * config_.z_dim);
        // The mean of the distribution is the first half of the channels.
        layers.push_back(std::make_unique<ConvolutionLayer>(
            build_.halves("quant_conv", {2 * config_.z_dim, config_.z_dim, kPoint, false}, {}).first,
            ConvolutionForm{}));
    }

  private:
    void causal(VaeLayers& layers, const std::string& name, std::int64_t in, std::int64_t out) {
        layers.push_back(std::make_unique<ConvolutionLayer>(build_.same(name, {in, out, kCube, false}),
                                                            ConvolutionForm{}, build_.place()));
    }

    void point(VaeLayers& layers, const std::string& name, std::int64_t channels) {
        layers.push_back(std::make_unique<ConvolutionLayer>(
            build_.same(name, {channels, channels, kPoint, false}), ConvolutionForm{}));
    }

    void norm_out(VaeLayers& layers, const std::string& name, std::int64_t channels) {
        layers.push_back(std::make_unique<NormLayer>(build_.rms_norm(name, channels, 4)));
    }

    std::unique_ptr<VaeLayer> residual(const std::string& name, std::int64_t in, std::int64_t out) {
        ResidualLayer::Parts parts;
        parts.norm1 = build_.rms_norm(name + ".norm1", in, 4);
        parts.conv1 = build_.same(name + ".conv1", {in, out, kCube, false});
        parts.norm2 = build_.rms_norm(name + ".norm2", out, 4);
        parts.conv2 = build_.same(name + ".conv2", {out, out, kCube, false});
        if (in != out) parts.shortcut = build_.same(name + ".conv_shortcut", {in, out, kPoint, false});
        parts.places = build_.place();
        build_.place();
        return std::make_unique<ResidualLayer>(std::move(parts));
    }

    std::unique_ptr<VaeLayer> attention(const std::string& name, std::int64_t width) {
        VaeAttentionLayer::Parts parts;
        parts.norm = build_.rms_norm(name + ".norm", width, 3);
        const auto [weight, bias] = build_.matrix(name + ".to_qkv", 3 * width, width, 4);
        const auto third = [&, &weight = weight, &bias = bias](std::int64_t i) {
            return std::pair(copied_rows(weight, i * width, width), copied_rows(bias, i * width, width));
        };
        parts.q = third(0);
        parts.k = third(1);
        parts.v = third(2);
        parts.out = build_.matrix(name + ".proj", width, width, 4);
        parts.device = build_.device();
        return std::make_unique<VaeAttentionLayer>(std::move(parts));
    }

    void middle(VaeLayers& layers, const std::string& name, std::int64_t width) {
        layers.push_back(residual(name + ".resnets.0", width, width));
        layers.push_back(attention(name + ".attentions.0", width));
        layers.push_back(residual(name + ".resnets.1", width, width));
    }

    std::unique_ptr<VaeLayer> time_up(const std::string& name, std::int64_t width) {
        return std::make_unique<TimeUpLayer>(
            build_.halves(name + ".time_conv", {width, width, kInTime, false}, {.padding = {2, 0, 0}}),
            build_.place());
    }

    /// Halves the sides, and frames where `time`.
    void down(VaeLayers& layers, const std::string& name, std::int64_t width, bool time) {
        layers.push_back(std::make_unique<ConvolutionLayer>(
            build_.convolution(name + ".resample.1", {width, width}, kHalvedSides), kHalvedSides));
        if (!time) return;
        const ConvolutionSizes sizes = {width, width, kInTime, false};
        layers.push_back(std::make_unique<TimeDownLayer>(
            build_.convolution(name + ".time_conv", sizes, TimeDownLayer::kForm), build_.place()));
    }

    /// The channels behind it.
    std::int64_t up_block(VaeLayers& layers, std::size_t block, std::int64_t in) {
        const std::size_t blocks = config_.blocks();
        const std::string name = fmt::format("decoder.up_blocks.{}", block);
        const std::int64_t out = config_.width(config_.decoder_base_dim, blocks - 1 - block);
        const bool up = block + 1 < blocks, time = up && config_.time_down[blocks - 2 - block];
        VaeLayers inner;
        VaeLayers& to = config_.residual && up ? inner : layers;
        std::int64_t width = in;
        for (std::int64_t j = 0; j <= config_.num_res_blocks; ++j, width = out)
            to.push_back(residual(fmt::format("{}.resnets.{}", name, j), width, out));
        if (!up) return out;
        const std::string sampler = name + (config_.residual ? ".upsampler" : ".upsamplers.0");
        if (time) to.push_back(time_up(sampler, out));
        const std::int64_t after = config_.residual ? out : out / 2;
        VaeConvolution doubled = build_.convolution(sampler + ".resample.1", {out, after}, kDoubledSides);
        if (config_.residual) {
            layers.push_back(
                std::make_unique<RepeatingUpLayer>(std::move(inner), std::move(doubled), in, time ? 2 : 1));
        } else {
            layers.push_back(std::make_unique<ConvolutionLayer>(std::move(doubled), kDoubledSides));
        }
        return after;
    }

    void flat_down_blocks(VaeLayers& layers, std::int64_t& in) {
        std::int64_t number = 0;
        const auto next = [&] { return fmt::format("encoder.down_blocks.{}", number++); };
        for (std::size_t i = 0; i < config_.blocks(); ++i) {
            const std::int64_t out = config_.width(config_.base_dim, i);
            for (std::int64_t j = 0; j < config_.num_res_blocks; ++j, in = out)
                layers.push_back(residual(next(), in, out));
            if (i + 1 == config_.blocks()) return;
            down(layers, next(), out, config_.time_down[i]);
        }
    }

    void residual_down_blocks(VaeLayers& layers, std::int64_t& in) {
        for (std::size_t i = 0; i < config_.blocks(); ++i) {
            const std::string name = fmt::format("encoder.down_blocks.{}", i);
            const std::int64_t out = config_.width(config_.base_dim, i), before = in;
            const bool last = i + 1 == config_.blocks(), time = !last && config_.time_down[i];
            VaeLayers inner;
            for (std::int64_t j = 0; j < config_.num_res_blocks; ++j, in = out)
                inner.push_back(residual(fmt::format("{}.resnets.{}", name, j), in, out));
            if (!last) down(inner, name + ".downsampler", out, time);
            layers.push_back(std::make_unique<AveragingDownLayer>(
                std::move(inner), AveragingDownLayer::Factors{before, out, time ? 2 : 1, last ? 1 : 2},
                build_.device()));
        }
    }

    const VideoVaeConfig& config_;
    VaeBuilder build_;
};

}  // namespace

VaeParts load_video_vae(const JsonNode& json, Checkpoint& checkpoint) {
    const VideoVaeConfig config = read_video_config(json);
    VaeParts parts;
    const auto halvings = std::count(config.time_down.begin(), config.time_down.end(), true);
    parts.shape = {config.z_dim, config.patch << (config.blocks() - 1), std::int64_t{1} << halvings, true};
    std::vector<float> back(config.mean.size()), back_shift(config.mean.size());
    for (std::size_t i = 0; i < back.size(); ++i) {
        back[i] = 1.0F / config.deviation[i];
        back_shift[i] = -config.mean[i] / config.deviation[i];
    }
    using Patches = PatchLayer;
    const auto patches = [&](Patches::Way way, VaeLayers& layers) {
        if (config.patch > 1)
            layers.push_back(std::make_unique<Patches>(config.patch, Patches::Order::columns_first, way));
    };
    VideoVaeLoader decoder(config, checkpoint), encoder(config, checkpoint);
    parts.decoder.layers.push_back(scale_channels(config.deviation, config.mean, checkpoint.device()));
    decoder.decode(parts.decoder.layers, parts.decoder.tiled);
    patches(Patches::Way::to_pixels, parts.decoder.layers);
    parts.decoder.places = decoder.places();
    patches(Patches::Way::to_channels, parts.encoder.layers);
    encoder.encode(parts.encoder.layers, parts.encoder.tiled);
    parts.encoder.layers.push_back(scale_channels(back, back_shift, checkpoint.device()));
    parts.encoder.places = encoder.places();
    return parts;
}

}  // namespace aerogel
