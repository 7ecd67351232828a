// Checking inputs, and one forward pass.
#include "model/z_image/transformer.h"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/views.h"
#include "model/checkpoint.h"
#include "model/finite.h"
#include "model/input_shapes.h"
#include "model/patches.h"
#include "model/rotary.h"
#include "model/sinusoids.h"
#include "model/slots.h"
#include "model/step_cache.h"
#include "model/z_image/block.h"
#include "model/z_image/original_names.h"
#include "model/z_image/weights.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr const char* kZImage = "z_image";
constexpr float kTimesteps = 1000.0F;
constexpr float kFinalEps = 1e-6F;

ZImageTokens tokens_of(const ZImageConfig& config, const TransformerInput& input, const PatchGrid& patches) {
    check_shape(kZImage, "hidden_states", input.hidden_states, {-1, config.in_channels, 1, -1, -1});
    check_shape(kZImage, "timestep", input.timestep, {patches.batch});
    check_shape(kZImage, "encoder_hidden_states", input.encoder_hidden_states,
                {patches.batch, -1, config.text_dim});
    const ZImageTokens tokens{patches.batch, patches.grid, input.encoder_hidden_states.dim(1)};
    if (tokens.text == 0) {
        throw InvalidArgument("[z_image] encoder_hidden_states must hold tokens, got " +
                              input.encoder_hidden_states.describe());
    }
    const auto& most = config.axes_lens;
    if (tokens.text_rows() + 2 > most[0]) {
        throw InvalidArgument(fmt::format("[z_image] axes_lens[0] = {} allows {} text tokens, got {}",
                                          most[0],
                                          (most[0] - 2) / ZImageTokens::kMultiple * ZImageTokens::kMultiple,
                                          input.encoder_hidden_states.describe()));
    }
    if (tokens.image.height > most[1] || tokens.image.width > most[2]) {
        throw InvalidArgument(fmt::format("[z_image] at most axes_lens = {} x {} patches, got {} x {} for {}",
                                          most[1], most[2], tokens.image.height, tokens.image.width,
                                          input.hidden_states.describe()));
    }
    return tokens;
}

// Text counts its tokens from 1, the image lies behind it, and what fills up the image is at the origin.
RotaryTable positions(const ZImageConfig& config, const ZImageTokens& tokens, Device device) {
    std::vector<std::int64_t> ids;
    add_grid_positions(tokens.image, {tokens.text_rows() + 1, 0, 0}, ids);
    ids.resize(static_cast<std::size_t>(3 * tokens.image_rows()), 0);
    add_grid_positions({tokens.text_rows(), 1, 1}, {1, 0, 0}, ids);
    return rotary_table(config.rotary, ids, device);
}

class ZImageTransformer final : public Transformer {
  public:
    ZImageTransformer(const ZImageConfig& config, ZImageWeights weights)
        : config_(config), weights_(std::move(weights)) {
        set_parts({kZImage, config_, weights_.slots(), weights_.attentions(), weights_.other_bytes,
                   weights_.device});
    }

    std::string_view default_layers() const override { return kZImageLayers; }
    std::string_view default_attentions() const override { return kZImageAttentions; }
    std::span<const OriginalName> original_names() const override { return kZImageNames.rows; }

    // The residual stream, its norm and the scratch memory of a block (ZImageBuffers).
    double forward_bytes(double tokens) const override {
        const auto dim = static_cast<double>(config_.dim);
        return sizeof(float) * tokens * (2.0 * dim + 2.0 * static_cast<double>(config_.hidden_dim()));
    }

    void check_intact() const override { weights_.file.check_intact(); }

  private:
    Tensor run(const TransformerInput& input, const TransformerStep& step) const override {
        const PatchGrid patches = patch_grid(kZImage, config_, input.hidden_states);
        const ZImageTokens tokens = tokens_of(config_, input, patches);
        const FiniteChecks check_finite{kZImage, step};
        check_finite_input(kZImage, input, step.context.call);
        const Tensor time = embed_time(input.timestep.values(), step);
        check_finite("the timestep embedding", time, std::array{&weights_.time_in, &weights_.time_out});
        const RotaryTable rotary = positions(config_, tokens, device());
        ZImageBuffers buffers(config_, tokens, device());
        const ZImagePass pass{config_, step, tokens, time, rotary, buffers};
        embed_image(pass, patches, input.hidden_states);
        embed_text(pass, input.encoder_hidden_states);
        check_finite("the embedding of image and text", buffers.hidden,
                     std::array{&weights_.x_embedder, &weights_.cap_embedder});
        run_blocks(pass, check_finite);
        const Tensor velocity = output(pass, patches);
        check_finite("the output of the model", velocity,
                     std::array{&weights_.final_modulation, &weights_.final_linear});
        return velocity;
    }

    // [batch, modulation_dim], in the float32 steps of the pipeline and the model.
    Tensor embed_time(std::vector<float> times, const TransformerStep& step) const {
        for (float& t : times) t = (kTimesteps - t) / kTimesteps * config_.t_scale;
        const Tensor waves = sinusoids(times, weights_.time_in.layer->in_features(), device());
        Tensor hidden = run_linear(weights_.time_in, waves, step);
        activation(ActivationFunction::silu, hidden, hidden, step.context.call);
        return run_linear(weights_.time_out, hidden, step);
    }

    // The rows of one item's image or text in the residual stream.
    static MutableView part(const ZImagePass& pass, std::int64_t item, std::int64_t first,
                            std::int64_t count) {
        return rows_of(pass.buffers.hidden.mutable_view(), item * pass.tokens.each() + first, count);
    }

    static void fill(const MutableView& rows, const Tensor& token, const Context& context) {
        if (rows.dim(0) > 0) copy(part_of(token.view(), 0, rows.shape, {0, 1}), rows, context);
    }

    void embed_image(const ZImagePass& pass, const PatchGrid& patches, const Tensor& image) const {
        const std::int64_t count = patches.grid.tokens(), pixels = weights_.x_embedder.layer->in_features();
        Tensor rows(DType::f32, {patches.rows(), pixels}, device());
        const Context& context = pass.step.context.call;
        patchify(patches, PatchColumns::channels_last, image, rows, context);
        for (std::int64_t item = 0; item < patches.batch; ++item) {
            run_linear(weights_.x_embedder, rows_of(rows.view(), item * count, count),
                       part(pass, item, 0, count), pass.step);
            fill(part(pass, item, count, pass.tokens.image_rows() - count), weights_.x_pad_token, context);
        }
    }

    void embed_text(const ZImagePass& pass, const Tensor& text) const {
        const std::int64_t count = pass.tokens.text, first = pass.tokens.image_rows();
        Tensor normed(DType::f32, {pass.tokens.batch * count, config_.text_dim}, device());
        const Context& context = pass.step.context.call;
        norm({.kind = NormKind::rms,
              .x = text.reshaped(normed.shape()),
              .y = normed,
              .weight = weights_.cap_norm,
              .epsilon = config_.norm_eps},
             context);
        for (std::int64_t item = 0; item < pass.tokens.batch; ++item) {
            run_linear(weights_.cap_embedder, rows_of(normed.view(), item * count, count),
                       part(pass, item, first, count), pass.step);
            fill(part(pass, item, first + count, pass.tokens.text_rows() - count), weights_.cap_pad_token,
                 context);
        }
    }

    void run_blocks(const ZImagePass& pass, const FiniteChecks& check_finite) const {
        const ZImageTokens& tokens = pass.tokens;
        int block = static_cast<int>(config_.n_layers);
        for (const ZImageBlockWeights& weights : weights_.noise_refiner)
            refine(pass, check_finite, weights, {.block = block++, .each = tokens.image_rows()});
        for (const ZImageBlockWeights& weights : weights_.context_refiner) {
            refine(pass, check_finite, weights,
                   {.block = block++,
                    .first = tokens.image_rows(),
                    .each = tokens.text_rows(),
                    .first_token = tokens.image_rows(),
                    .has_image = false});
        }
        const StepCache::Rows rows = {tokens.batch, tokens.each(), 0, tokens.each()};
        const int layers = static_cast<int>(weights_.layers.size());
        aerogel::run_blocks({pass.step, pass.buffers.hidden, rows, layers}, [&](int index) {
            const ZImageBlockWeights& weights = weights_.layers[static_cast<std::size_t>(index)];
            const ZImageSpan span{.block = index, .items = tokens.batch, .each = tokens.each()};
            run_block(weights, pass, span);
            look_at(pass, check_finite, weights, span);
        });
    }

    // One part of every item, whose rows do not lie together.
    void refine(const ZImagePass& pass, const FiniteChecks& check_finite, const ZImageBlockWeights& weights,
                ZImageSpan span) const {
        const std::int64_t first = span.first;
        for (span.item = 0; span.item < pass.tokens.batch; ++span.item) {
            span.first = span.item * pass.tokens.each() + first;
            run_block(weights, pass, span);
        }
        span.first = first;
        look_at(pass, check_finite, weights, span);
    }

    void look_at(const ZImagePass& pass, const FiniteChecks& check_finite, const ZImageBlockWeights& weights,
                 const ZImageSpan& span) const {
        const std::string& name = weights.attention.name;
        check_finite("the output of " + name.substr(0, name.rfind('.')), pass.buffers.hidden,
                     std::array{&weights.to_q, &weights.to_k, &weights.to_v, &weights.to_out, &weights.w1,
                                &weights.w2, &weights.w3, &weights.modulation});
        if (!pass.step.on_block_output) return;
        const ZImageTokens& tokens = pass.tokens;
        Tensor shown(DType::f32, {tokens.batch, span.each, config_.dim}, device());
        copy(part_of(pass.buffers.hidden.view(), span.first * config_.dim, shown.shape(),
                     {tokens.each() * config_.dim, config_.dim, 1}),
             shown, pass.step.context.call);
        pass.step.on_block_output(span.block, shown.to(Device::cpu));
    }

    // The final layer over the image's tokens. The model predicts data minus noise.
    Tensor output(const ZImagePass& pass, const PatchGrid& patches) const {
        const Context& context = pass.step.context.call;
        Tensor time = pass.time.clone();
        activation(ActivationFunction::silu, time, time, context);
        const Tensor scales = run_linear(weights_.final_modulation, time, pass.step);
        const std::int64_t count = patches.grid.tokens();
        const MutableView normed =
            part_of(pass.buffers.normed.mutable_view(), 0, {patches.rows(), config_.dim});
        for (std::int64_t item = 0; item < patches.batch; ++item) {
            norm({.x = part(pass, item, 0, count),
                  .y = rows_of(normed, item * count, count),
                  .scale = rows_of(scales.view(), item, 1),
                  .epsilon = kFinalEps},
                 context);
        }
        Tensor rows(DType::f32, {patches.rows(), weights_.final_linear.layer->out_features()}, device());
        run_linear(weights_.final_linear, normed, rows, pass.step);
        combine({{-1.0, rows}}, rows, false, context);
        return unpatchify(patches, PatchColumns::channels_last, rows, context);
    }

    ZImageConfig config_;
    ZImageWeights weights_;
};

}  // namespace

std::unique_ptr<Transformer> load_z_image(const std::filesystem::path& folder, const LoadOptions& options) {
    const ZImageConfig config = ZImageConfig::read(folder / "config.json");
    return std::make_unique<ZImageTransformer>(
        config, ZImageWeights::load(config, Checkpoint::open(kZImage, folder, options)));
}

}  // namespace aerogel
