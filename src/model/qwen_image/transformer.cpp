// Checking inputs, and one forward pass.
#include "model/qwen_image/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/views.h"
#include "model/checkpoint.h"
#include "model/finite.h"
#include "model/input_shapes.h"
#include "model/patches.h"
#include "model/qwen_image/block.h"
#include "model/qwen_image/weights.h"
#include "model/rotary.h"
#include "model/sinusoids.h"
#include "model/slots.h"
#include "model/step_cache.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr const char* kQwenImage = "qwen_image";
constexpr float kTimesteps = 1000.0F;
constexpr std::int64_t kPositions = 4096;  // on either side of 0, of QwenEmbedRope

// Where the text begins: behind the image, whose rows and columns are counted from its centre.
std::int64_t first_text_position(const LatentShape& image) {
    return std::max(image.height / 2, image.width / 2);
}

QwenImageTokens tokens_of(const QwenImageConfig& config, const TransformerInput& input,
                          const PatchGrid& patches) {
    check_shape(kQwenImage, "hidden_states", input.hidden_states, {-1, config.in_channels, 1, -1, -1});
    check_shape(kQwenImage, "timestep", input.timestep, {patches.batch});
    check_shape(kQwenImage, "encoder_hidden_states", input.encoder_hidden_states,
                {patches.batch, -1, config.text_dim});
    const QwenImageTokens tokens{patches.batch, input.encoder_hidden_states.dim(1), patches.grid};
    if (tokens.text == 0) {
        throw InvalidArgument("[qwen_image] encoder_hidden_states must hold tokens, got " +
                              input.encoder_hidden_states.describe());
    }
    const std::int64_t longest = std::max(tokens.image.height, tokens.image.width);
    if (longest > 2 * kPositions || first_text_position(tokens.image) + tokens.text > kPositions) {
        throw InvalidArgument(fmt::format(
            "[qwen_image] there are {} positions for half of the image's longer side and the text, got {} "
            "patches and {} text tokens",
            kPositions, longest, tokens.text));
    }
    return tokens;
}

RotaryTable positions(const QwenImageConfig& config, const QwenImageTokens& tokens, Device device) {
    std::vector<std::int64_t> ids;
    const std::int64_t first = first_text_position(tokens.image);
    for (std::int64_t token = 0; token < tokens.text; ++token) ids.insert(ids.end(), 3, first + token);
    const LatentShape& image = tokens.image;
    add_grid_positions(image, {0, image.height / 2 - image.height, image.width / 2 - image.width}, ids);
    return rotary_table(config.rotary, ids, device);
}

class QwenImageTransformer final : public Transformer {
  public:
    QwenImageTransformer(const QwenImageConfig& config, QwenImageWeights weights)
        : config_(config), weights_(std::move(weights)) {
        set_parts({kQwenImage, config_, weights_.slots(), weights_.attentions(), weights_.other_bytes,
                   weights_.device});
    }

    std::string_view default_layers() const override { return kQwenImageLayers; }
    std::string_view default_attentions() const override { return kQwenImageAttentions; }
    AutomaticSchemes automatic_schemes() const override { return {.further_layers = kQwenImageModulation}; }

    // The residual stream, its norm and the scratch memory of a block (QwenImageBuffers).
    double forward_bytes(double tokens) const override {
        return sizeof(float) * tokens * 6.0 * static_cast<double>(config_.inner_dim());
    }

    void check_intact() const override { weights_.file.check_intact(); }

  private:
    Tensor run(const TransformerInput& input, const TransformerStep& step) const override {
        const PatchGrid patches = patch_grid(kQwenImage, config_, input.hidden_states);
        const QwenImageTokens tokens = tokens_of(config_, input, patches);
        const FiniteChecks check_finite{kQwenImage, step};
        check_finite_input(kQwenImage, input, step.context.call);
        const Tensor time = embed_time(input.timestep.values(), step);
        check_finite("the timestep embedding", time, std::array{&weights_.time_in, &weights_.time_out});
        const RotaryTable rotary = positions(config_, tokens, device());
        QwenImageBuffers buffers(config_, tokens, device());
        const QwenImagePass pass{config_, step, tokens, time, rotary, buffers};
        embed_image(pass, patches, input.hidden_states);
        embed_text(pass, input.encoder_hidden_states);
        check_finite("the embedding of image and text", buffers.hidden,
                     std::array{&weights_.image_in, &weights_.text_in});
        run_blocks(pass, check_finite);
        const Tensor velocity = output(pass, patches);
        check_finite("the output of the model", velocity, std::array{&weights_.norm_out, &weights_.proj_out});
        return velocity;
    }

    // [batch, inner_dim] after silu. The pipeline divides timesteps by 1000, the model multiplies the angles.
    Tensor embed_time(std::vector<float> times, const TransformerStep& step) const {
        for (float& t : times) t /= kTimesteps;
        const Tensor waves = sinusoids(times, weights_.time_in.layer->in_features(), device(), kTimesteps);
        Tensor hidden = run_linear(weights_.time_in, waves, step);
        activation(ActivationFunction::silu, hidden, hidden, step.context.call);
        Tensor time = run_linear(weights_.time_out, hidden, step);
        activation(ActivationFunction::silu, time, time, step.context.call);
        return time;
    }

    // The rows of one item's text (first = 0) or image (first = text) in the residual stream.
    static MutableView part(const QwenImagePass& pass, std::int64_t item, std::int64_t first,
                            std::int64_t count) {
        return rows_of(pass.buffers.hidden.mutable_view(), item * pass.tokens.each() + first, count);
    }

    void embed_image(const QwenImagePass& pass, const PatchGrid& patches, const Tensor& image) const {
        const std::int64_t count = patches.grid.tokens();
        Tensor rows(DType::f32, {patches.rows(), weights_.image_in.layer->in_features()}, device());
        patchify(patches, PatchColumns::channels_first, image, rows, pass.step.context.call);
        for (std::int64_t item = 0; item < patches.batch; ++item)
            run_linear(weights_.image_in, rows_of(rows.view(), item * count, count),
                       part(pass, item, pass.tokens.text, count), pass.step);
    }

    void embed_text(const QwenImagePass& pass, const Tensor& text) const {
        const std::int64_t count = pass.tokens.text;
        Tensor normed(DType::f32, {pass.tokens.batch * count, config_.text_dim}, device());
        norm({.kind = NormKind::rms,
              .x = text.reshaped(normed.shape()),
              .y = normed,
              .weight = weights_.text_norm,
              .epsilon = kQwenImageEps},
             pass.step.context.call);
        for (std::int64_t item = 0; item < pass.tokens.batch; ++item)
            run_linear(weights_.text_in, rows_of(normed.view(), item * count, count),
                       part(pass, item, 0, count), pass.step);
    }

    void run_blocks(const QwenImagePass& pass, const FiniteChecks& check_finite) const {
        const QwenImageTokens& tokens = pass.tokens;
        const StepCache::Rows rows = {tokens.batch, tokens.each(), tokens.text, tokens.each() - tokens.text};
        Tensor& hidden = pass.buffers.hidden;
        aerogel::run_blocks(
            {pass.step, hidden, rows, static_cast<int>(weights_.blocks.size())}, [&](int index) {
                const QwenImageBlockWeights& block = weights_.blocks[static_cast<std::size_t>(index)];
                run_block(block, pass, index);
                const QwenImageStreamWeights &image = block.image, &text = block.text;
                check_finite(
                    fmt::format("the output of block {}", index), hidden,
                    std::array{&image.modulation, &image.to_q, &image.to_k, &image.to_v, &text.modulation,
                               &text.to_q, &text.to_k, &text.to_v, &image.to_out, &text.to_out, &image.mlp_in,
                               &image.mlp_out, &text.mlp_in, &text.mlp_out});
                show_block_output(index, hidden, tokens.batch, pass.step);
            });
    }

    // AdaLayerNormContinuous of diffusers (scale first, then shift), over the image's tokens.
    Tensor output(const QwenImagePass& pass, const PatchGrid& patches) const {
        const Context& context = pass.step.context.call;
        const Tensor rows = run_linear(weights_.norm_out, pass.time, pass.step);
        const std::int64_t dim = config_.inner_dim(), count = patches.grid.tokens();
        const MutableView normed = part_of(pass.buffers.normed.mutable_view(), 0, {patches.rows(), dim});
        for (std::int64_t item = 0; item < patches.batch; ++item) {
            norm({.x = part(pass, item, pass.tokens.text, count),
                  .y = rows_of(normed, item * count, count),
                  .scale = part_of(rows.view(), 2 * item * dim, {1, dim}),
                  .shift = part_of(rows.view(), (2 * item + 1) * dim, {1, dim}),
                  .epsilon = kQwenImageEps},
                 context);
        }
        Tensor pixels(DType::f32, {patches.rows(), weights_.proj_out.layer->out_features()}, device());
        run_linear(weights_.proj_out, normed, pixels, pass.step);
        return unpatchify(patches, PatchColumns::channels_first, pixels, context);
    }

    QwenImageConfig config_;
    QwenImageWeights weights_;
};

}  // namespace

std::unique_ptr<Transformer> load_qwen_image(const std::filesystem::path& folder,
                                             const LoadOptions& options) {
    const QwenImageConfig config = QwenImageConfig::read(folder / "config.json");
    return std::make_unique<QwenImageTransformer>(
        config, QwenImageWeights::load(config, Checkpoint::open(kQwenImage, folder, options)));
}

}  // namespace aerogel
