// Names and shapes of a Flux2Transformer2DModel checkpoint.
#include "model/flux2/weights.h"

#include <fmt/format.h>

namespace aerogel {
namespace {

class Flux2Loader {
  public:
    Flux2Loader(const Flux2Config& config, Checkpoint& checkpoint)
        : config_(config), checkpoint_(checkpoint), dim_(config.inner_dim()), mlp_(config.mlp_hidden_dim) {}

    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features) {
        return checkpoint_.linear(name, in_features, out_features, /*has_bias=*/false);
    }

    Flux2DoubleWeights double_block(const std::string& prefix) {
        const std::string attn = prefix + ".attn.";
        Flux2DoubleWeights block;
        block.attention = attention(prefix);
        block.image = {linear(attn + "to_q", dim_, dim_),
                       linear(attn + "to_k", dim_, dim_),
                       linear(attn + "to_v", dim_, dim_),
                       linear(attn + "to_out.0", dim_, dim_),
                       linear(prefix + ".ff.linear_in", dim_, 2 * mlp_),
                       linear(prefix + ".ff.linear_out", mlp_, dim_),
                       head_norm(attn + "norm_q"),
                       head_norm(attn + "norm_k")};
        block.text = {linear(attn + "add_q_proj", dim_, dim_),
                      linear(attn + "add_k_proj", dim_, dim_),
                      linear(attn + "add_v_proj", dim_, dim_),
                      linear(attn + "to_add_out", dim_, dim_),
                      linear(prefix + ".ff_context.linear_in", dim_, 2 * mlp_),
                      linear(prefix + ".ff_context.linear_out", mlp_, dim_),
                      head_norm(attn + "norm_added_q"),
                      head_norm(attn + "norm_added_k")};
        return block;
    }

    Flux2SingleWeights single_block(const std::string& prefix) {
        const std::string attn = prefix + ".attn.";
        return {attention(prefix), linear(attn + "to_qkv_mlp_proj", dim_, 3 * dim_ + 2 * mlp_),
                linear(attn + "to_out", dim_ + mlp_, dim_), head_norm(attn + "norm_q"),
                head_norm(attn + "norm_k")};
    }

  private:
    AttentionSlot attention(const std::string& prefix) const {
        return {prefix + ".attn", config_.num_attention_heads, config_.attention_head_dim, std::nullopt};
    }

    Tensor head_norm(const std::string& name) {
        return checkpoint_.take_f32(name + ".weight", {config_.attention_head_dim});
    }

    const Flux2Config& config_;
    Checkpoint& checkpoint_;
    std::int64_t dim_, mlp_;
};

void load_embeddings(const Flux2Config& config, Flux2Loader& loader, Flux2Weights& weights) {
    const std::int64_t dim = config.inner_dim(), channels = config.timestep_guidance_channels;
    const std::string embedder = "time_guidance_embed.";
    weights.time_in = loader.linear(embedder + "timestep_embedder.linear_1", channels, dim);
    weights.time_out = loader.linear(embedder + "timestep_embedder.linear_2", dim, dim);
    if (config.guidance_embeds) {
        weights.guidance_in = loader.linear(embedder + "guidance_embedder.linear_1", channels, dim);
        weights.guidance_out = loader.linear(embedder + "guidance_embedder.linear_2", dim, dim);
    }
    weights.modulation_image = loader.linear("double_stream_modulation_img.linear", dim, 6 * dim);
    weights.modulation_text = loader.linear("double_stream_modulation_txt.linear", dim, 6 * dim);
    weights.modulation_single = loader.linear("single_stream_modulation.linear", dim, 3 * dim);
    weights.image_in = loader.linear("x_embedder", config.in_channels, dim);
    weights.text_in = loader.linear("context_embedder", config.text_dim, dim);
    weights.norm_out = loader.linear("norm_out.linear", dim, 2 * dim);
    weights.proj_out = loader.linear("proj_out", dim, config.out_channels);
}

}  // namespace

Flux2Weights Flux2Weights::load(const Flux2Config& config, Checkpoint checkpoint) {
    checkpoint.check_layers(
        config.num_layers, fmt::format("num_layers = {} and num_single_layers = {}", config.num_double_layers,
                                       config.num_single_layers));
    Flux2Loader loader(config, checkpoint);
    Flux2Weights weights;
    load_embeddings(config, loader, weights);
    for (std::int64_t i = 0; i < config.num_double_layers; ++i)
        weights.double_blocks.push_back(loader.double_block(fmt::format("transformer_blocks.{}", i)));
    for (std::int64_t i = 0; i < config.num_single_layers; ++i)
        weights.single_blocks.push_back(loader.single_block(fmt::format("single_transformer_blocks.{}", i)));
    weights.device = checkpoint.device();
    weights.file = checkpoint.file();
    weights.other_bytes = checkpoint.finish(weights.slots());
    return weights;
}

std::vector<AttentionSlot*> Flux2Weights::attentions() {
    std::vector<AttentionSlot*> all;
    for (Flux2DoubleWeights& block : double_blocks) all.push_back(&block.attention);
    for (Flux2SingleWeights& block : single_blocks) all.push_back(&block.attention);
    return all;
}

std::vector<LinearSlot*> Flux2Weights::slots() {
    std::vector<LinearSlot*> all = {&time_in,           &time_out,         &guidance_in,
                                    &guidance_out,      &modulation_image, &modulation_text,
                                    &modulation_single, &image_in,         &text_in};
    for (Flux2DoubleWeights& block : double_blocks) {
        Flux2StreamWeights &image = block.image, &text = block.text;
        all.insert(all.end(),
                   {&image.to_q, &image.to_k, &image.to_v, &image.to_out, &text.to_q, &text.to_k, &text.to_v,
                    &text.to_out, &image.ff_in, &image.ff_out, &text.ff_in, &text.ff_out});
    }
    for (Flux2SingleWeights& block : single_blocks) all.insert(all.end(), {&block.to_qkv_mlp, &block.to_out});
    all.insert(all.end(), {&norm_out, &proj_out});
    std::erase_if(all, [](const LinearSlot* slot) { return !*slot; });
    return all;
}

}  // namespace aerogel
