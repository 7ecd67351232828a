// Configuration and weights of a decoder-only language model, and its blocks on rows [tokens, dim].
#include "model/text/language_model.h"

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

/// What is in which family of models beyond its sizes.
struct LanguageKind {
    const char* family;     ///< begins the messages
    bool head_norms;        ///< q and k of every head are normed
    bool qkv_bias;          ///< whatever config.json says
    std::int64_t head_dim;  ///< where config.json has none; 0: the width of a head
    double theta;           ///< where config.json has none
};

constexpr LanguageKind kQwen3 = {"qwen3", true, false, 128, 1e4};
constexpr LanguageKind kQwen25 = {"qwen2.5", false, true, 0, 1e6};

struct LanguageConfig {
    std::int64_t vocabulary, dim, ffn_dim, layers, heads, kv_heads, head_dim;
    float epsilon = 1e-6F;
    double theta;
    bool bias;  ///< of q, k and v; that of o goes with attention_bias alone
    bool o_bias;
};

// Newer files have the numbers of the rotary embedding in one object (rope_parameters), older ones beside
// each other, with rope_scaling for all that is not plain.
double read_theta(const JsonNode& config, double otherwise) {
    // "mrope" gives text the same position three times, which is the plain embedding.
    static constexpr std::array<std::string_view, 2> kPlain = {"default", "mrope"};
    double theta = otherwise;
    if (config.has("rope_theta")) theta = config.at("rope_theta").number(1.0, 1e12);
    for (const char* name : {"rope_scaling", "rope_parameters"}) {
        if (!config.has(name)) continue;
        const JsonNode rope = config.at(name);
        for (const char* type : {"type", "rope_type"})
            if (rope.has(type)) rope.at(type).word(kPlain);
        if (rope.has("rope_theta")) theta = rope.at("rope_theta").number(1.0, 1e12);
    }
    return theta;
}

void check_full_attention(const JsonNode& config) {
    static constexpr std::array<std::string_view, 1> kFull = {"full_attention"};
    if (config.has("use_sliding_window") && config.at("use_sliding_window").flag())
        config.at("use_sliding_window").fail("false");
    if (!config.has("layer_types")) return;
    for (const JsonNode& type : config.at("layer_types").items()) type.word(kFull);
}

LanguageConfig read_language_config(const std::filesystem::path& folder, const LanguageKind& kind) {
    static constexpr std::array<std::string_view, 1> kActivations = {"silu"};
    const JsonNode file = JsonNode::read(folder / "config.json", "text encoder");
    const JsonNode config = file.has("text_config") ? file.at("text_config") : file;
    const auto size = [&](const char* key) { return config.at(key).whole(kSizes); };
    LanguageConfig read;
    read.vocabulary = size("vocab_size");
    read.dim = size("hidden_size");
    read.ffn_dim = size("intermediate_size");
    read.layers = size("num_hidden_layers");
    read.heads = size("num_attention_heads");
    read.kv_heads = config.has("num_key_value_heads") ? size("num_key_value_heads") : read.heads;
    read.head_dim = kind.head_dim != 0 ? kind.head_dim : std::max<std::int64_t>(1, read.dim / read.heads);
    if (config.has("head_dim")) read.head_dim = size("head_dim");
    if (config.has("hidden_act")) config.at("hidden_act").word(kActivations);
    if (config.has("rms_norm_eps"))
        read.epsilon = static_cast<float>(config.at("rms_norm_eps").number(1e-30, 1.0));
    read.theta = read_theta(config, kind.theta);
    read.o_bias = !kind.qkv_bias && config.has("attention_bias") && config.at("attention_bias").flag();
    read.bias = kind.qkv_bias || read.o_bias;
    check_full_attention(config);
    if (read.heads % read.kv_heads != 0)
        config.at("num_key_value_heads").fail(fmt::format("a divisor of {} heads", read.heads));
    if (read.head_dim % 2 != 0 || read.head_dim > 256)
        throw InvalidArgument(
            fmt::format("{}: head_dim must be even and at most 256, got {}", config.where(), read.head_dim));
    if (read.heads * read.head_dim > kSizes.high)
        throw InvalidArgument(
            fmt::format("{}: {} heads of {} are too wide", config.where(), read.heads, read.head_dim));
    return read;
}

struct LanguageBlock : TextBlock {
    Tensor q_norm, k_norm;  ///< of heads
};

LanguageBlock take_language_block(const std::string& name, const LanguageConfig& config,
                                  const LanguageKind& kind, TextWeights& weights) {
    const std::string attention = name + ".self_attn.", ffn = name + ".mlp.";
    const std::int64_t wide = config.heads * config.head_dim, narrow = config.kv_heads * config.head_dim;
    LanguageBlock block;
    block.q = weights.linear(attention + "q_proj", config.dim, wide, config.bias);
    block.k = weights.linear(attention + "k_proj", config.dim, narrow, config.bias);
    block.v = weights.linear(attention + "v_proj", config.dim, narrow, config.bias);
    block.o = weights.linear(attention + "o_proj", wide, config.dim, config.o_bias);
    if (kind.head_norms) {
        block.q_norm = weights.vector(attention + "q_norm.weight", config.head_dim);
        block.k_norm = weights.vector(attention + "k_norm.weight", config.head_dim);
    }
    block.gate = weights.linear(ffn + "gate_proj", config.dim, config.ffn_dim, false);
    block.up = weights.linear(ffn + "up_proj", config.dim, config.ffn_dim, false);
    block.down = weights.linear(ffn + "down_proj", config.ffn_dim, config.dim, false);
    block.attention_norm = weights.vector(name + ".input_layernorm.weight", config.dim);
    block.ffn_norm = weights.vector(name + ".post_attention_layernorm.weight", config.dim);
    return block;
}

/// Angles of all positions, as float32 arithmetic gives them in transformers: their rounding shows at far
/// positions.
struct Rotation {
    Tensor cos, sin;  // [tokens, head_dim / 2]

    Rotation(std::int64_t tokens, const LanguageConfig& config, Device device) {
        const std::int64_t pairs = config.head_dim / 2;
        std::vector<float> cosines, sines;
        for (std::int64_t token = 0; token < tokens; ++token) {
            for (std::int64_t i = 0; i < pairs; ++i) {
                const auto share = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
                const auto power = static_cast<float>(std::pow(config.theta, static_cast<double>(share)));
                const float angle = static_cast<float>(token) * (1.0F / power);
                cosines.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
                sines.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
            }
        }
        cos = Tensor::of(cosines, {tokens, pairs}, device);
        sin = Tensor::of(sines, {tokens, pairs}, device);
    }
};

class LanguageModel final : public TextModel {
  public:
    LanguageModel(const LanguageConfig& config, const LanguageKind& kind, TextWeights& weights)
        : config_(config) {
        Parts parts;
        parts.family = kind.family;
        parts.layers = config.layers;
        parts.epsilon = config.epsilon;
        parts.device = weights.device();
        parts.embeddings = weights.table("embed_tokens.weight", config.vocabulary, config.dim);
        blocks_.reserve(static_cast<std::size_t>(config.layers));
        for (std::int64_t i = 0; i < config.layers; ++i) {
            blocks_.push_back(take_language_block(fmt::format("layers.{}", i), config, kind, weights));
            for (LinearSlot* slot : blocks_.back().linears()) parts.linears.push_back(slot);
        }
        parts.final_norm = weights.vector("norm.weight", config.dim);
        parts.other_bytes = weights.finish(parts.linears);
        parts.files.push_back(weights.file());
        set_parts(std::move(parts));
    }

  private:
    void run(const Pass& pass, std::int64_t blocks,
             const std::function<void(std::int64_t)>& after) const override {
        if (blocks == 0) return;
        Buffers buffers(blocks_.front(), pass);
        const Rotation rotation(pass.hidden.dim(0), config_, device());
        for (std::int64_t i = 0; i < blocks; ++i) {
            const LanguageBlock& block = blocks_[static_cast<std::size_t>(i)];
            project(block, pass, buffers);
            place(buffers.q, block.q_norm, rotation, config_.heads, pass);
            place(buffers.k, block.k_norm, rotation, config_.kv_heads, pass);
            attention_of(buffers, pass);
            add_attention(block, pass, buffers);
            feed_forward(block, ActivationFunction::silu, pass, buffers);
            after(i + 1);
        }
    }

    /// Norms heads, if the model does, and rotates them.
    void place(Tensor& x, const Tensor& weight, const Rotation& rotation, std::int64_t heads,
               const Pass& pass) const {
        if (weight.defined()) {
            const MutableView each = reshaped(x.mutable_view(), {x.dim(0) * heads, config_.head_dim});
            normalize(each, weight, each, pass);
        }
        rope({x, rotation.cos, rotation.sin, heads, RopePairs::halves}, pass.step.call);
    }

    /// Causal among the tokens of the text. Padding comes behind it and sees the text, as it does under the
    /// attention mask of transformers.
    void attention_of(Buffers& buffers, const Pass& pass) const {
        const std::int64_t tokens = pass.hidden.dim(0), real = pass.real_length;
        const auto heads = [&](const auto& rows, std::int64_t first, std::int64_t count) {
            const auto part = rows_of(rows, first, count);
            return reshaped(part, {1, count, rows.dim(1) / config_.head_dim, config_.head_dim});
        };
        const TensorView k = heads(buffers.k.view(), 0, real), v = heads(buffers.v.view(), 0, real);
        const auto part = [&](std::int64_t first, std::int64_t count, bool causal) {
            AttentionOptions options;
            options.causal = causal;
            options.call = pass.step.call;
            aerogel::attention(heads(buffers.q.view(), first, count), k, v,
                               heads(buffers.o.mutable_view(), first, count), options);
        };
        part(0, real, true);
        if (tokens > real) part(real, tokens - real, false);
    }

    LanguageConfig config_;
    std::vector<LanguageBlock> blocks_;
};

std::unique_ptr<TextModel> load_language_model(const std::filesystem::path& folder,
                                               const LoadOptions& options, const LanguageKind& kind) {
    const LanguageConfig config = read_language_config(folder, kind);
    // The prefixes of the model alone, below its head, and in the files of several versions of transformers.
    TextWeights weights(kind.family, folder, options, "embed_tokens.weight",
                        {"model.language_model.", "language_model.model.", "language_model.", "model.", ""});
    for (const char* other : {"lm_head.", "language_model.lm_head.", "visual.", "model.visual."})
        weights.ignore(other);
    weights.check_layers("num_hidden_layers", config.layers);
    return std::make_unique<LanguageModel>(config, kind, weights);
}

}  // namespace

std::unique_ptr<TextModel> load_qwen3(const std::filesystem::path& folder, const LoadOptions& options) {
    return load_language_model(folder, options, kQwen3);
}

std::unique_ptr<TextModel> load_qwen2_5_vl(const std::filesystem::path& folder, const LoadOptions& options) {
    return load_language_model(folder, options, kQwen25);
}

}  // namespace aerogel
