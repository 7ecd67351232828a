// Configuration and weights of a T5 encoder, and its blocks on rows [tokens, dim]. Scores are not scaled and
// get a bias per head that depends on how far the key is from the query.
#include "model/text/t5_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "core/json.h"
#include "core/views.h"
#include "model/config_values.h"
#include "model/text/text_weights.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

struct T5Kind {
    const char* family;  ///< begins the messages
    bool bias_of_each_layer;
};

constexpr T5Kind kUmt5 = {"umt5", true};
constexpr T5Kind kT5 = {"t5", false};

struct T5Config {
    std::int64_t vocabulary, dim, ffn_dim, layers, heads, head_dim;
    std::int64_t buckets = 32, max_distance = 128;
    float epsilon = 1e-6F;
};

T5Config read_t5_config(const std::filesystem::path& folder) {
    static constexpr std::array<std::string_view, 1> kFeedForwards = {"gated-gelu"};
    const JsonNode file = JsonNode::read(folder / "config.json", "text encoder");
    const auto size = [&](const char* key) { return file.at(key).whole(kSizes); };
    T5Config read;
    read.vocabulary = size("vocab_size");
    read.dim = size("d_model");
    read.ffn_dim = size("d_ff");
    read.layers = size("num_layers");
    read.heads = size("num_heads");
    read.head_dim = file.at("d_kv").whole({1, 256});
    if (file.has("relative_attention_num_buckets"))
        read.buckets = file.at("relative_attention_num_buckets").whole({4, 1 << 16});
    if (file.has("relative_attention_max_distance"))
        read.max_distance = file.at("relative_attention_max_distance").whole({read.buckets / 4 + 1, 1 << 24});
    if (file.has("layer_norm_epsilon"))
        read.epsilon = static_cast<float>(file.at("layer_norm_epsilon").number(1e-30, 1.0));
    file.at("feed_forward_proj").word(kFeedForwards);
    if (read.heads * read.head_dim > kSizes.high)
        throw InvalidArgument(
            fmt::format("{}: {} heads of {} are too wide", file.where(), read.heads, read.head_dim));
    return read;
}

/// The row of the bias table for a key so far behind the query. One half of the rows is for keys behind, the
/// other for those at or before it; half of each is exact, the rest grows with the logarithm of the distance.
/// In float32, as in transformers: other roundings would move the limits between rows.
std::int64_t bucket_of(std::int64_t distance, const T5Config& config) {
    const std::int64_t half = config.buckets / 2, exact = half / 2, away = std::abs(distance);
    const std::int64_t first = distance > 0 ? half : 0;
    if (away < exact) return first + away;
    const float steps =
        std::log(static_cast<float>(away) / static_cast<float>(exact)) /
        static_cast<float>(std::log(static_cast<double>(config.max_distance) / static_cast<double>(exact))) *
        static_cast<float>(half - exact);
    return first + std::min(exact + static_cast<std::int64_t>(steps), half - 1);
}

struct T5Block : TextBlock {
    std::vector<float> bias;  ///< [buckets, heads]; empty: that of the first block
};

T5Block take_t5_block(const std::string& name, const T5Config& config, bool own_bias, TextWeights& weights) {
    const std::string attention = name + ".layer.0.SelfAttention.", ffn = name + ".layer.1.DenseReluDense.";
    const std::int64_t wide = config.heads * config.head_dim;
    T5Block block;
    block.q = weights.linear(attention + "q", config.dim, wide, false);
    block.k = weights.linear(attention + "k", config.dim, wide, false);
    block.v = weights.linear(attention + "v", config.dim, wide, false);
    block.o = weights.linear(attention + "o", wide, config.dim, false);
    if (own_bias) {
        const Tensor table =
            weights.matrix(attention + "relative_attention_bias.weight", config.buckets, config.heads);
        if (table.defined()) block.bias = table.values();
    }
    block.attention_norm = weights.vector(name + ".layer.0.layer_norm.weight", config.dim);
    block.gate = weights.linear(ffn + "wi_0", config.dim, config.ffn_dim, false);
    block.up = weights.linear(ffn + "wi_1", config.dim, config.ffn_dim, false);
    block.down = weights.linear(ffn + "wo", config.ffn_dim, config.dim, false);
    block.ffn_norm = weights.vector(name + ".layer.1.layer_norm.weight", config.dim);
    return block;
}

class T5Encoder final : public TextModel {
  public:
    T5Encoder(const T5Config& config, const T5Kind& kind, TextWeights& weights) : config_(config) {
        Parts parts;
        parts.family = kind.family;
        parts.layers = config.layers;
        parts.epsilon = config.epsilon;
        parts.device = weights.device();
        // One table under two names.
        const char* table =
            weights.contains("shared.weight") ? "shared.weight" : "encoder.embed_tokens.weight";
        parts.embeddings = weights.table(table, config.vocabulary, config.dim);
        blocks_.reserve(static_cast<std::size_t>(config.layers));
        for (std::int64_t i = 0; i < config.layers; ++i) {
            blocks_.push_back(take_t5_block(fmt::format("encoder.block.{}", i), config,
                                            i == 0 || kind.bias_of_each_layer, weights));
            for (LinearSlot* slot : blocks_.back().linears()) parts.linears.push_back(slot);
        }
        parts.final_norm = weights.vector("encoder.final_layer_norm.weight", config.dim);
        parts.other_bytes = weights.finish(parts.linears);
        parts.files.push_back(weights.file());
        set_parts(std::move(parts));
    }

  private:
    void run(const Pass& pass, std::int64_t blocks,
             const std::function<void(std::int64_t)>& after) const override {
        if (blocks == 0) return;
        Buffers buffers(blocks_.front(), pass);
        const std::vector<std::int64_t> buckets = buckets_of(pass.hidden.dim(0), pass.real_length);
        Tensor bias;
        for (std::int64_t i = 0; i < blocks; ++i) {
            const T5Block& block = blocks_[static_cast<std::size_t>(i)];
            if (!block.bias.empty()) bias = bias_of(block.bias, buckets);
            project(block, pass, buffers);
            attention_of(pass, bias, buffers);
            add_attention(block, pass, buffers);
            feed_forward(block, ActivationFunction::gelu_tanh, pass, buffers);
            after(i + 1);
        }
    }

    /// The bucket of each distance from a query to a key, the most distant key before it first.
    std::vector<std::int64_t> buckets_of(std::int64_t queries, std::int64_t keys) const {
        std::vector<std::int64_t> buckets;
        for (std::int64_t distance = 1 - queries; distance < keys; ++distance)
            buckets.push_back(bucket_of(distance, config_));
        return buckets;
    }

    /// [heads, distances] of a table [buckets, heads].
    Tensor bias_of(const std::vector<float>& table, const std::vector<std::int64_t>& buckets) const {
        std::vector<float> values;
        for (std::int64_t head = 0; head < config_.heads; ++head)
            for (const std::int64_t bucket : buckets)
                values.push_back(table[static_cast<std::size_t>(bucket * config_.heads + head)]);
        return Tensor::of(values, {config_.heads, static_cast<std::int64_t>(buckets.size())}, device());
    }

    void attention_of(const Pass& pass, const Tensor& bias, Buffers& buffers) const {
        const auto heads = [&](const auto& rows, std::int64_t count) {
            return reshaped(rows_of(rows, 0, count), {1, count, config_.heads, config_.head_dim});
        };
        AttentionOptions options;
        options.scale = 1.0F;
        options.bias = bias;
        options.call = pass.step.call;
        aerogel::attention(heads(buffers.q.view(), pass.hidden.dim(0)),
                           heads(buffers.k.view(), pass.real_length),
                           heads(buffers.v.view(), pass.real_length),
                           heads(buffers.o.mutable_view(), pass.hidden.dim(0)), options);
    }

    T5Config config_;
    std::vector<T5Block> blocks_;
};

std::unique_ptr<TextModel> load_t5_model(const std::filesystem::path& folder, const LoadOptions& options,
                                         const T5Kind& kind) {
    const T5Config config = read_t5_config(folder);
    TextWeights weights(kind.family, folder, options, "encoder.final_layer_norm.weight", {""});
    for (const char* other : {"shared.", "encoder.embed_tokens."}) weights.ignore(other);
    weights.check_layers("num_layers", config.layers);
    return std::make_unique<T5Encoder>(config, kind, weights);
}

}  // namespace

std::unique_ptr<TextModel> load_umt5(const std::filesystem::path& folder, const LoadOptions& options) {
    return load_t5_model(folder, options, kUmt5);
}

std::unique_ptr<TextModel> load_t5(const std::filesystem::path& folder, const LoadOptions& options) {
    return load_t5_model(folder, options, kT5);
}

}  // namespace aerogel
