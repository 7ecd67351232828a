// Names and shapes of a ZImageTransformer2DModel checkpoint.
#include "model/z_image/weights.h"

#include <fmt/format.h>

namespace aerogel {
namespace {

constexpr std::int64_t kTimeFrequencies = 256, kTimeMiddle = 1024;

class ZImageLoader {
  public:
    ZImageLoader(const ZImageConfig& config, Checkpoint& checkpoint)
        : config_(config), checkpoint_(checkpoint) {}

    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features,
                      bool has_bias = true) {
        return checkpoint_.linear(name, in_features, out_features, has_bias);
    }

    Tensor vector(const std::string& name, std::int64_t size) { return checkpoint_.take_f32(name, {size}); }

    Tensor pad_token(const std::string& name) { return checkpoint_.take_f32(name, {1, config_.dim}); }

    std::vector<ZImageBlockWeights> blocks(const std::string& prefix, std::int64_t count, bool modulated) {
        std::vector<ZImageBlockWeights> all;
        for (std::int64_t i = 0; i < count; ++i)
            all.push_back(block(fmt::format("{}.{}", prefix, i), modulated));
        return all;
    }

  private:
    ZImageBlockWeights block(const std::string& prefix, bool modulated) {
        const std::int64_t dim = config_.dim, hidden = config_.hidden_dim();
        const std::string attention = prefix + ".attention", ffn = prefix + ".feed_forward.";
        ZImageBlockWeights block;
        block.attention = {attention, config_.num_attention_heads, config_.attention_head_dim, std::nullopt};
        block.to_q = linear(attention + ".to_q", dim, dim, false);
        block.to_k = linear(attention + ".to_k", dim, dim, false);
        block.to_v = linear(attention + ".to_v", dim, dim, false);
        block.to_out = linear(attention + ".to_out.0", dim, dim, false);
        if (config_.qk_norm) {
            block.norm_q = vector(attention + ".norm_q.weight", config_.attention_head_dim);
            block.norm_k = vector(attention + ".norm_k.weight", config_.attention_head_dim);
        }
        block.w1 = linear(ffn + "w1", dim, hidden, false);
        block.w2 = linear(ffn + "w2", hidden, dim, false);
        block.w3 = linear(ffn + "w3", dim, hidden, false);
        block.attention_norm1 = vector(prefix + ".attention_norm1.weight", dim);
        block.attention_norm2 = vector(prefix + ".attention_norm2.weight", dim);
        block.ffn_norm1 = vector(prefix + ".ffn_norm1.weight", dim);
        block.ffn_norm2 = vector(prefix + ".ffn_norm2.weight", dim);
        if (modulated)
            block.modulation = linear(prefix + ".adaLN_modulation.0", config_.modulation_dim(), 4 * dim);
        return block;
    }

    const ZImageConfig& config_;
    Checkpoint& checkpoint_;
};

}  // namespace

ZImageWeights ZImageWeights::load(const ZImageConfig& config, Checkpoint checkpoint) {
    checkpoint.check_layers(config.num_layers, fmt::format("n_layers = {} and n_refiner_layers = {}",
                                                           config.n_layers, config.n_refiner_layers));
    ZImageLoader loader(config, checkpoint);
    const std::int64_t dim = config.dim, patch = config.patch_size[1];
    const std::int64_t pixels = patch * patch * config.in_channels;
    const std::string size = fmt::format("{}-1", patch), final = "all_final_layer." + size + ".";
    ZImageWeights weights;
    weights.x_embedder = loader.linear("all_x_embedder." + size, pixels, dim);
    weights.final_linear = loader.linear(final + "linear", dim, pixels);
    weights.final_modulation = loader.linear(final + "adaLN_modulation.1", config.modulation_dim(), dim);
    weights.noise_refiner = loader.blocks("noise_refiner", config.n_refiner_layers, true);
    weights.context_refiner = loader.blocks("context_refiner", config.n_refiner_layers, false);
    weights.time_in = loader.linear("t_embedder.mlp.0", kTimeFrequencies, kTimeMiddle);
    weights.time_out = loader.linear("t_embedder.mlp.2", kTimeMiddle, config.modulation_dim());
    weights.cap_norm = loader.vector("cap_embedder.0.weight", config.text_dim);
    weights.cap_embedder = loader.linear("cap_embedder.1", config.text_dim, dim);
    weights.layers = loader.blocks("layers", config.n_layers, true);
    weights.x_pad_token = loader.pad_token("x_pad_token");
    weights.cap_pad_token = loader.pad_token("cap_pad_token");
    weights.device = checkpoint.device();
    weights.file = checkpoint.file();
    weights.other_bytes = checkpoint.finish(weights.slots());
    return weights;
}

std::vector<AttentionSlot*> ZImageWeights::attentions() {
    std::vector<AttentionSlot*> all;
    for (auto* blocks : {&noise_refiner, &context_refiner, &layers})
        for (ZImageBlockWeights& block : *blocks) all.push_back(&block.attention);
    return all;
}

std::vector<LinearSlot*> ZImageWeights::slots() {
    std::vector<LinearSlot*> all = {&x_embedder, &final_linear, &final_modulation};
    const auto add = [&](std::vector<ZImageBlockWeights>& blocks) {
        for (ZImageBlockWeights& block : blocks)
            all.insert(all.end(), {&block.to_q, &block.to_k, &block.to_v, &block.to_out, &block.w1, &block.w2,
                                   &block.w3, &block.modulation});
    };
    add(noise_refiner);
    add(context_refiner);
    all.insert(all.end(), {&time_in, &time_out, &cap_embedder});
    add(layers);
    std::erase_if(all, [](const LinearSlot* slot) { return !*slot; });
    return all;
}

}  // namespace aerogel
