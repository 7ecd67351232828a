// Names and shapes of a WanTransformer3DModel checkpoint.
#include "model/wan/weights.h"

#include <fmt/format.h>

namespace aerogel {
namespace {

class WeightLoader {
  public:
    WeightLoader(const WanConfig& config, Checkpoint& checkpoint)
        : config_(config), checkpoint_(checkpoint), dim_(config.inner_dim()) {}

    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features) {
        return checkpoint_.linear(name, in_features, out_features);
    }

    LinearSlot patch_embedding() {
        const std::int64_t t = config_.patch_size[0];
        const std::int64_t h = config_.patch_size[1];
        const std::int64_t w = config_.patch_size[2];
        return checkpoint_.patches("patch_embedding", {dim_, config_.in_channels, t, h, w});
    }

    WanImageEmbedderWeights image_embedder(const std::string& prefix) {
        WanImageEmbedderWeights image;
        if (!config_.image_dim) return image;
        const std::int64_t in = *config_.image_dim;
        if (config_.pos_embed_seq_len) {
            const Tensor table =
                checkpoint_.take_f32(prefix + ".pos_embed", {1, *config_.pos_embed_seq_len, in});
            if (table.defined()) image.pos_embed = table.reshaped({*config_.pos_embed_seq_len, in});
        }
        image.norm1_weight = checkpoint_.take_f32(prefix + ".norm1.weight", {in});
        image.norm1_bias = checkpoint_.take_f32(prefix + ".norm1.bias", {in});
        image.ff_in = linear(prefix + ".ff.net.0.proj", in, in);
        image.ff_out = linear(prefix + ".ff.net.2", in, dim_);
        image.norm2_weight = checkpoint_.take_f32(prefix + ".norm2.weight", {dim_});
        image.norm2_bias = checkpoint_.take_f32(prefix + ".norm2.bias", {dim_});
        return image;
    }

    WanBlockWeights block(const std::string& prefix) {
        WanBlockWeights block;
        block.scale_shift_table = table(prefix + ".scale_shift_table", 6);
        block.attn1 = attention(prefix + ".attn1");
        block.attn2 = attention(prefix + ".attn2");
        if (config_.added_kv_proj_dim) {
            const std::string attn2 = prefix + ".attn2";
            block.attn2.add_k = linear(attn2 + ".add_k_proj", *config_.added_kv_proj_dim, dim_);
            block.attn2.add_v = linear(attn2 + ".add_v_proj", *config_.added_kv_proj_dim, dim_);
            block.attn2.norm_added_k = head_norm(attn2 + ".norm_added_k.weight");
        }
        if (config_.cross_attn_norm) {
            block.norm2_weight = checkpoint_.take_f32(prefix + ".norm2.weight", {dim_});
            block.norm2_bias = checkpoint_.take_f32(prefix + ".norm2.bias", {dim_});
        }
        block.ffn_in = linear(prefix + ".ffn.net.0.proj", dim_, config_.ffn_dim);
        block.ffn_out = linear(prefix + ".ffn.net.2", config_.ffn_dim, dim_);
        return block;
    }

    Tensor table(const std::string& name, std::int64_t rows) {
        const Tensor stored = checkpoint_.take_f32(name, {1, rows, dim_});
        return stored.defined() ? stored.reshaped({rows, dim_}) : stored;
    }

  private:
    // diffusers builds and applies these norms whatever qk_norm says; with null a checkpoint may lack them.
    Tensor head_norm(const std::string& name) {
        return config_.qk_norm ? checkpoint_.take_f32(name, {dim_})
                               : checkpoint_.take_optional_f32(name, {dim_});
    }

    WanAttentionWeights attention(const std::string& prefix) {
        WanAttentionWeights weights;
        weights.slot = {prefix, config_.num_attention_heads, config_.attention_head_dim, std::nullopt};
        weights.to_q = linear(prefix + ".to_q", dim_, dim_);
        weights.to_k = linear(prefix + ".to_k", dim_, dim_);
        weights.to_v = linear(prefix + ".to_v", dim_, dim_);
        weights.to_out = linear(prefix + ".to_out.0", dim_, dim_);
        weights.norm_q = head_norm(prefix + ".norm_q.weight");
        weights.norm_k = head_norm(prefix + ".norm_k.weight");
        return weights;
    }

    const WanConfig& config_;
    Checkpoint& checkpoint_;
    std::int64_t dim_;
};

}  // namespace

WanWeights WanWeights::load(const WanConfig& config, Checkpoint checkpoint) {
    checkpoint.check_layers(config.num_layers, fmt::format("num_layers = {}", config.num_layers));
    WeightLoader loader(config, checkpoint);
    const std::int64_t dim = config.inner_dim();
    const std::string embedder = "condition_embedder.";
    WanWeights weights;
    weights.patch_embedding = loader.patch_embedding();
    weights.time_in = loader.linear(embedder + "time_embedder.linear_1", config.freq_dim, dim);
    weights.time_out = loader.linear(embedder + "time_embedder.linear_2", dim, dim);
    weights.time_proj = loader.linear(embedder + "time_proj", dim, 6 * dim);
    weights.text_in = loader.linear(embedder + "text_embedder.linear_1", config.text_dim, dim);
    weights.text_out = loader.linear(embedder + "text_embedder.linear_2", dim, dim);
    weights.image = loader.image_embedder(embedder + "image_embedder");
    for (std::int64_t i = 0; i < config.num_layers; ++i) {
        weights.blocks.push_back(loader.block(fmt::format("blocks.{}", i)));
    }
    weights.scale_shift_table = loader.table("scale_shift_table", 2);
    const std::int64_t patch = config.patch_size[0] * config.patch_size[1] * config.patch_size[2];
    weights.proj_out = loader.linear("proj_out", dim, config.out_channels * patch);
    weights.device = checkpoint.device();
    weights.file = checkpoint.file();
    weights.other_bytes = checkpoint.finish(weights.slots());
    return weights;
}

std::vector<AttentionSlot*> WanWeights::attentions() {
    std::vector<AttentionSlot*> all;
    for (WanBlockWeights& block : blocks) all.insert(all.end(), {&block.attn1.slot, &block.attn2.slot});
    return all;
}

std::vector<LinearSlot*> WanWeights::slots() {
    std::vector<LinearSlot*> all = {&time_in,  &time_out,    &time_proj,   &text_in,
                                    &text_out, &image.ff_in, &image.ff_out};
    for (WanBlockWeights& block : blocks) {
        for (WanAttentionWeights* attention : {&block.attn1, &block.attn2}) {
            all.insert(all.end(), {&attention->to_q, &attention->to_k, &attention->to_v, &attention->to_out,
                                   &attention->add_k, &attention->add_v});
        }
        all.insert(all.end(), {&block.ffn_in, &block.ffn_out});
    }
    all.push_back(&proj_out);
    std::erase_if(all, [](const LinearSlot* slot) { return !*slot; });
    return all;
}

}  // namespace aerogel
