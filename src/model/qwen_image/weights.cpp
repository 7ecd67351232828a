// Names and shapes of a QwenImageTransformer2DModel checkpoint.
#include "model/qwen_image/weights.h"

#include <fmt/format.h>

#include <string>

namespace aerogel {
namespace {

constexpr std::int64_t kTimeFrequencies = 256;

// What diffusers calls the layers of a stream.
struct StreamNames {
    const char *to_q, *to_k, *to_v, *to_out, *norm_q, *norm_k, *modulation, *mlp;
};
constexpr StreamNames kImageNames = {"attn.to_q",   "attn.to_k",   "attn.to_v", "attn.to_out.0",
                                     "attn.norm_q", "attn.norm_k", "img_mod.1", "img_mlp"};
constexpr StreamNames kTextNames = {
    "attn.add_q_proj",   "attn.add_k_proj",   "attn.add_v_proj", "attn.to_add_out",
    "attn.norm_added_q", "attn.norm_added_k", "txt_mod.1",       "txt_mlp"};

QwenImageStreamWeights load_stream(const QwenImageConfig& config, Checkpoint& checkpoint,
                                   const std::string& prefix, const StreamNames& names) {
    const std::int64_t dim = config.inner_dim();
    const auto square = [&](const char* name) { return checkpoint.linear(prefix + name, dim, dim); };
    const auto head_norm = [&](const char* name) {
        return checkpoint.take_f32(prefix + name + ".weight", {config.attention_head_dim});
    };
    QwenImageStreamWeights stream;
    stream.to_q = square(names.to_q);
    stream.to_k = square(names.to_k);
    stream.to_v = square(names.to_v);
    stream.to_out = square(names.to_out);
    stream.norm_q = head_norm(names.norm_q);
    stream.norm_k = head_norm(names.norm_k);
    stream.modulation = checkpoint.linear(prefix + names.modulation, dim, 6 * dim);
    stream.mlp_in = checkpoint.linear(prefix + names.mlp + ".net.0.proj", dim, 4 * dim);
    stream.mlp_out = checkpoint.linear(prefix + names.mlp + ".net.2", 4 * dim, dim);
    return stream;
}

QwenImageBlockWeights load_block(const QwenImageConfig& config, Checkpoint& checkpoint,
                                 const std::string& name) {
    const std::string prefix = name + ".";
    return {{prefix + "attn", config.num_attention_heads, config.attention_head_dim, std::nullopt},
            load_stream(config, checkpoint, prefix, kImageNames),
            load_stream(config, checkpoint, prefix, kTextNames)};
}

}  // namespace

QwenImageWeights QwenImageWeights::load(const QwenImageConfig& config, Checkpoint checkpoint) {
    checkpoint.check_layers(config.num_layers, fmt::format("num_layers = {}", config.num_layers));
    const std::int64_t dim = config.inner_dim(), patch = config.patch_size[1] * config.patch_size[2];
    const std::string embedder = "time_text_embed.timestep_embedder.";
    QwenImageWeights weights;
    weights.time_in = checkpoint.linear(embedder + "linear_1", kTimeFrequencies, dim);
    weights.time_out = checkpoint.linear(embedder + "linear_2", dim, dim);
    weights.text_norm = checkpoint.take_f32("txt_norm.weight", {config.text_dim});
    weights.image_in = checkpoint.linear("img_in", patch * config.in_channels, dim);
    weights.text_in = checkpoint.linear("txt_in", config.text_dim, dim);
    for (std::int64_t i = 0; i < config.num_layers; ++i)
        weights.blocks.push_back(load_block(config, checkpoint, fmt::format("transformer_blocks.{}", i)));
    weights.norm_out = checkpoint.linear("norm_out.linear", dim, 2 * dim);
    weights.proj_out = checkpoint.linear("proj_out", dim, patch * config.out_channels);
    weights.device = checkpoint.device();
    weights.file = checkpoint.file();
    weights.other_bytes = checkpoint.finish(weights.slots());
    return weights;
}

std::vector<AttentionSlot*> QwenImageWeights::attentions() {
    std::vector<AttentionSlot*> all;
    for (QwenImageBlockWeights& block : blocks) all.push_back(&block.attention);
    return all;
}

std::vector<LinearSlot*> QwenImageWeights::slots() {
    std::vector<LinearSlot*> all = {&time_in, &time_out, &image_in, &text_in};
    for (QwenImageBlockWeights& block : blocks) {
        QwenImageStreamWeights &image = block.image, &text = block.text;
        all.insert(all.end(), {&image.modulation, &image.to_q, &image.to_k, &image.to_v, &text.to_k,
                               &text.to_v, &text.to_q, &image.to_out, &text.to_out, &image.mlp_in,
                               &image.mlp_out, &text.modulation, &text.mlp_in, &text.mlp_out});
    }
    all.insert(all.end(), {&norm_out, &proj_out});
    return all;
}

}  // namespace aerogel
