// The last block and what follows it are not read. Heads stay interleaved in the rows.
#include "model/image/clip_vision.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "core/json.h"
#include "core/views.h"
#include "model/checkpoint.h"
#include "model/config_values.h"
#include "model/input_shapes.h"
#include "model/patches.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace clip {

struct ClipConfig {
    std::int64_t hidden_size = 768, intermediate_size = 3072, num_hidden_layers = 12;
    std::int64_t num_attention_heads = 12, image_size = 224, patch_size = 32;
    float layer_norm_eps = 1e-5F;
    bool quick_gelu = true;  ///< x * sigmoid(1.702 x), else by the error function

    std::int64_t side() const { return image_size / patch_size; }  ///< patches
    std::int64_t tokens() const { return 1 + side() * side(); }
    std::int64_t patch_elements() const { return 3 * patch_size * patch_size; }
};

struct LayerNorm {
    Tensor weight, bias;
};

struct ClipBlock {
    LayerNorm norm1, norm2;
    LinearSlot q, k, v, out, fc1, fc2;
};

}  // namespace clip

using clip::ClipBlock;
using clip::ClipConfig;
using clip::LayerNorm;

namespace {

constexpr const char* kClip = "clip";
constexpr double kQuickGelu = 1.702;

ClipConfig read_config(const std::filesystem::path& path) {
    static constexpr std::array<std::string_view, 2> kActivations = {"gelu", "quick_gelu"};
    const JsonNode json = JsonNode::read(path, kClip);
    ClipConfig config;
    read_size(json, "hidden_size", config.hidden_size);
    read_size(json, "intermediate_size", config.intermediate_size);
    read_size(json, "num_hidden_layers", config.num_hidden_layers);
    read_size(json, "num_attention_heads", config.num_attention_heads);
    read_size(json, "image_size", config.image_size);
    read_size(json, "patch_size", config.patch_size);
    read_eps(json, "layer_norm_eps", config.layer_norm_eps);
    if (json.has("num_channels")) json.at("num_channels").whole({3, 3});
    if (json.has("hidden_act")) config.quick_gelu = json.at("hidden_act").word(kActivations) == "quick_gelu";
    const std::int64_t head_dim = config.hidden_size / config.num_attention_heads;
    if (config.hidden_size % config.num_attention_heads != 0 || head_dim > 256) {
        throw InvalidArgument(
            fmt::format("{}: hidden_size must be num_attention_heads times at most 256, got {} and {}",
                        json.where(), config.hidden_size, config.num_attention_heads));
    }
    if (config.patch_size > config.image_size || config.image_size > 4096) {
        throw InvalidArgument(fmt::format("{}: image_size must be from patch_size to 4096, got {} and {}",
                                          json.where(), config.image_size, config.patch_size));
    }
    return config;
}

}  // namespace

struct ClipVision::State {
    ClipConfig config;
    LinearSlot patches;
    Tensor class_embedding;  ///< [1, dim]
    Tensor positions;        ///< [tokens, dim]
    LayerNorm first_norm;
    std::vector<ClipBlock> blocks;  ///< without the last
    Device device;
    WeightFile file;  ///< the weights of Linears are views of it
    std::size_t bytes = 0;
};

namespace {

class ClipLoader {
  public:
    ClipLoader(const ClipConfig& config, Checkpoint& checkpoint)
        : config_(config), checkpoint_(checkpoint), dim_(config.hidden_size) {
        // transformers wrote the prefix until its version 5.
        if (checkpoint.file().contains("vision_model.embeddings.class_embedding")) prefix_ = "vision_model.";
    }

    void embeddings(LinearSlot& patches, Tensor& class_embedding, Tensor& positions) {
        const std::string name = prefix_ + "embeddings.";
        const std::int64_t side = config_.patch_size;
        patches = checkpoint_.patches(name + "patch_embedding", {dim_, 3, side, side}, false);
        class_embedding = checkpoint_.take_f32(name + "class_embedding", {dim_});
        positions = checkpoint_.take_f32(name + "position_embedding.weight", {config_.tokens(), dim_});
    }

    LayerNorm norm(const std::string& name) {
        return {checkpoint_.take_f32(prefix_ + name + ".weight", {dim_}),
                checkpoint_.take_f32(prefix_ + name + ".bias", {dim_})};
    }

    ClipBlock block(std::int64_t index) {
        const std::string name = layer(index), attention = name + "self_attn.";
        ClipBlock block;
        block.norm1 = norm(name + "layer_norm1");
        block.norm2 = norm(name + "layer_norm2");
        block.q = linear(attention + "q_proj", dim_, dim_);
        block.k = linear(attention + "k_proj", dim_, dim_);
        block.v = linear(attention + "v_proj", dim_, dim_);
        block.out = linear(attention + "out_proj", dim_, dim_);
        block.fc1 = linear(name + "mlp.fc1", dim_, config_.intermediate_size);
        block.fc2 = linear(name + "mlp.fc2", config_.intermediate_size, dim_);
        return block;
    }

    // What comes behind the states that are looked at.
    void ignore_the_rest() {
        for (const std::string& name : {layer(config_.num_hidden_layers - 1), std::string("post_layernorm"),
                                        std::string("embeddings.position_ids")})
            checkpoint_.ignore(prefix_ + name);
        checkpoint_.ignore("visual_projection");
    }

  private:
    static std::string layer(std::int64_t index) { return fmt::format("encoder.layers.{}.", index); }

    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features) {
        return checkpoint_.linear(prefix_ + name, in_features, out_features);
    }

    const ClipConfig& config_;
    Checkpoint& checkpoint_;
    std::int64_t dim_;
    std::string prefix_;
};

// One pass on float32 rows [images * tokens, dim].
class ClipPass {
  public:
    ClipPass(const ClipConfig& config, std::int64_t images, Device device, const StepContext& step)
        : hidden(DType::f32, {images * config.tokens(), config.hidden_size}, device),
          config_(config),
          step_(step),
          images_(images),
          normed_(DType::f32, hidden.shape(), device),
          q_(DType::f32, hidden.shape(), device),
          k_(DType::f32, hidden.shape(), device),
          v_(DType::f32, hidden.shape(), device),
          inner_(DType::f32, {hidden.dim(0), config.intermediate_size}, device) {}

    void embed(const LinearSlot& patches, const Tensor& class_embedding, const Tensor& positions,
               const Tensor& pixels) {
        const std::int64_t side = config_.side(), patch = config_.patch_size, count = side * side;
        Tensor rows(DType::f32, {images_ * count, config_.patch_elements()}, pixels.device());
        const std::int64_t used = side * patch;  // a rest that fills no patch is left out
        const TensorView whole = part_of(pixels.view(), 0, {images_, 3, 1, used, used}, strides_of_images());
        Tensor cut(DType::f32, whole.shape, pixels.device());
        copy(whole, cut, step_.call);
        patchify({images_, {1, side, side}, 1, patch, patch}, PatchColumns::channels_first, cut, rows,
                 step_.call);
        const MutableView all = hidden;
        for (std::int64_t image = 0; image < images_; ++image) {
            const MutableView tokens = rows_of(all, image * (count + 1), count + 1);
            patches.layer->forward(rows_of(rows.view(), image * count, count), rows_of(tokens, 1, count),
                                   step_);
            copy(class_embedding.reshaped({1, config_.hidden_size}), rows_of(tokens, 0, 1), step_.call);
            residual(tokens, positions, {}, step_.call);
        }
    }

    void normalise(const LayerNorm& layer, const MutableView& y) {
        norm({.x = hidden,
              .y = y,
              .weight = layer.weight,
              .bias = layer.bias,
              .epsilon = config_.layer_norm_eps},
             step_.call);
    }

    void run(const ClipBlock& block) {
        normalise(block.norm1, normed_);
        block.q.layer->forward(normed_, q_, step_);
        block.k.layer->forward(normed_, k_, step_);
        block.v.layer->forward(normed_, v_, step_);
        attention(heads(q_), heads(k_), heads(v_), heads(normed_), {.call = step_.call});
        block.out.layer->forward(normed_, q_, step_);
        residual(hidden, q_, {}, step_.call);
        normalise(block.norm2, normed_);
        block.fc1.layer->forward(normed_, inner_, step_);
        activate();
        block.fc2.layer->forward(inner_, q_, step_);
        residual(hidden, q_, {}, step_.call);
    }

    Tensor hidden;

  private:
    Shape strides_of_images() const {
        const std::int64_t size = config_.image_size;
        return {3 * size * size, size * size, size * size, size, 1};
    }

    // x sigmoid(ax) = silu(ax) / a.
    void activate() {
        if (!config_.quick_gelu) return activation(ActivationFunction::gelu_erf, inner_, inner_, step_.call);
        combine({{kQuickGelu, inner_}}, inner_, false, step_.call);
        activation(ActivationFunction::silu, inner_, inner_, step_.call);
        combine({{1.0 / kQuickGelu, inner_}}, inner_, false, step_.call);
    }

    MutableView heads(Tensor& x) const {
        const std::int64_t count = config_.num_attention_heads;
        return reshaped(x.mutable_view(), {images_, config_.tokens(), count, config_.hidden_size / count});
    }

    const ClipConfig& config_;
    const StepContext& step_;
    std::int64_t images_;
    Tensor normed_, q_, k_, v_, inner_;
};

}  // namespace

ClipVision::ClipVision(const std::filesystem::path& folder, const LoadOptions& options)
    : state_(std::make_unique<State>()) {
    const ClipConfig config = state_->config = read_config(folder / "config.json");
    Checkpoint checkpoint = Checkpoint::open(kClip, folder, options);
    checkpoint.check_layers(config.num_hidden_layers,
                            fmt::format("num_hidden_layers = {}", config.num_hidden_layers));
    ClipLoader loader(config, checkpoint);
    loader.embeddings(state_->patches, state_->class_embedding, state_->positions);
    state_->first_norm = loader.norm("pre_layrnorm");
    for (std::int64_t i = 0; i + 1 < config.num_hidden_layers; ++i) state_->blocks.push_back(loader.block(i));
    loader.ignore_the_rest();
    checkpoint.finish();
    state_->device = checkpoint.device();
    state_->file = checkpoint.file();
    state_->file.check_intact();
    state_->bytes = checkpoint.bytes_taken();
}

ClipVision::~ClipVision() = default;

std::int64_t ClipVision::image_size() const {
    return state_->config.image_size;
}

std::int64_t ClipVision::tokens() const {
    return state_->config.tokens();
}

std::int64_t ClipVision::dim() const {
    return state_->config.hidden_size;
}

void ClipVision::move_weights(WeightPlace place) {
    state_->patches.layer->move_weight(place);
    for (const ClipBlock& block : state_->blocks)
        for (const LinearSlot* slot : {&block.q, &block.k, &block.v, &block.out, &block.fc1, &block.fc2})
            slot->layer->move_weight(place);
}

std::size_t ClipVision::weight_bytes() const {
    return state_->bytes;
}

Tensor ClipVision::hidden_states(const Tensor& pixels, const StepContext& step) const {
    const ClipConfig& config = state_->config;
    check_shape(kClip, "pixels", pixels, {-1, 3, config.image_size, config.image_size});
    if (pixels.dim(0) < 1) throw InvalidArgument("[clip] there are no images, got " + pixels.describe());
    ClipPass pass(config, pixels.dim(0), state_->device, step);
    pass.embed(state_->patches, state_->class_embedding, state_->positions, pixels.to(state_->device));
    pass.normalise(state_->first_norm, pass.hidden);
    for (const ClipBlock& block : state_->blocks) pass.run(block);
    if (!all_finite(pass.hidden, step.call))
        throw InvalidArgument("[clip] the hidden states are not finite: look at the pixels and the weights");
    return pass.hidden.reshaped({pixels.dim(0), config.tokens(), config.hidden_size});
}

}  // namespace aerogel
