// Checking inputs, and one forward pass.
#include "model/flux2/transformer.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "aerogel/error.h"
#include "core/views.h"
#include "model/checkpoint.h"
#include "model/finite.h"
#include "model/flux2/block.h"
#include "model/flux2/original_names.h"
#include "model/flux2/weights.h"
#include "model/input_shapes.h"
#include "model/patches.h"
#include "model/rotary.h"
#include "model/sinusoids.h"
#include "model/slots.h"
#include "model/step_cache.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr const char* kFlux2 = "flux2";
constexpr float kTimesteps = 1000.0F;

Flux2Tokens tokens_of(const Flux2Config& config, const TransformerInput& input) {
    const Tensor& image = input.hidden_states;
    check_shape(kFlux2, "hidden_states", image, {-1, config.in_channels, 1, -1, -1});
    if (image.count() == 0) throw InvalidArgument("[flux2] the image is empty, got " + image.describe());
    const std::int64_t batch = image.dim(0);
    check_shape(kFlux2, "timestep", input.timestep, {batch});
    check_shape(kFlux2, "encoder_hidden_states", input.encoder_hidden_states, {batch, -1, config.text_dim});
    if (input.guidance.defined()) {
        if (!config.guidance_embeds)
            throw InvalidArgument("[flux2] this model takes no guidance (guidance_embeds is false), got " +
                                  input.guidance.describe());
        check_shape(kFlux2, "guidance", input.guidance, {batch});
    }
    return {batch, input.encoder_hidden_states.dim(1), {1, image.dim(3), image.dim(4)}};
}

// As TimestepEmbedding of diffusers: [numbers, inner_dim].
Tensor embed_numbers(const LinearSlot& in, const LinearSlot& out, const std::vector<float>& numbers,
                     Device device, const TransformerStep& step) {
    Tensor hidden = run_linear(in, sinusoids(numbers, in.layer->in_features(), device), step);
    activation(ActivationFunction::silu, hidden, hidden, step.context.call);
    return run_linear(out, hidden, step);
}

// The pipeline divides timesteps by 1000, the model multiplies them again; both round to float32.
std::vector<float> rounded(std::vector<float> timesteps) {
    for (float& t : timesteps) t = t / kTimesteps * kTimesteps;
    return timesteps;
}

// Ids of Flux2KleinPipeline, (time, row, column, token): text counts its tokens, an image lies at time 0.
RotaryTable positions(const Flux2Config& config, const Flux2Tokens& tokens, Device device) {
    std::vector<std::int64_t> ids;
    for (std::int64_t token = 0; token < tokens.text; ++token) ids.insert(ids.end(), {0, 0, 0, token});
    for (std::int64_t row = 0; row < tokens.image.height; ++row) {
        for (std::int64_t column = 0; column < tokens.image.width; ++column)
            ids.insert(ids.end(), {0, row, column, 0});
    }
    return rotary_table(config.rotary, ids, device);
}

class Flux2Transformer final : public Transformer {
  public:
    Flux2Transformer(const Flux2Config& config, Flux2Weights weights)
        : config_(config), weights_(std::move(weights)) {
        set_parts({kFlux2, config_, weights_.slots(), weights_.attentions(), weights_.other_bytes,
                   weights_.device});
    }

    std::string_view default_layers() const override { return kFlux2Layers; }
    std::string_view default_attentions() const override { return kFlux2Attentions; }

    std::span<const OriginalName> original_names() const override { return kFlux2Names.rows; }

    // The residual stream, three arrays of its size and a single block's projection (Flux2Buffers).
    double forward_bytes(double tokens) const override {
        const auto dim = static_cast<double>(config_.inner_dim());
        return sizeof(float) * tokens * (7.0 * dim + 2.0 * static_cast<double>(config_.mlp_hidden_dim));
    }

    void check_intact() const override { weights_.file.check_intact(); }

  private:
    Tensor run(const TransformerInput& input, const TransformerStep& step) const override {
        const Flux2Tokens tokens = tokens_of(config_, input);
        const FiniteChecks check_finite{kFlux2, step};
        check_finite_input(kFlux2, input, step.context.call);
        Tensor time = embed_time(input, step);
        const Flux2Modulation modulation = modulate(time, step);
        check_finite("the timestep embedding", modulation.single,
                     std::array{&weights_.time_in, &weights_.time_out, &weights_.modulation_single});
        const RotaryTable rotary = positions(config_, tokens, device());
        Flux2Buffers buffers(config_, tokens, device());
        const Flux2Pass pass{config_, step, tokens, modulation, rotary, buffers};
        embed_tokens(pass, input);
        check_finite("the embedding of image and text", buffers.hidden,
                     std::array{&weights_.image_in, &weights_.text_in});
        run_blocks(pass, check_finite);
        const Tensor velocity = output(pass, time);
        check_finite("the output of the model", velocity, std::array{&weights_.norm_out, &weights_.proj_out});
        return velocity;
    }

    // [batch, inner_dim], through the silu that all that use it begin with.
    Tensor embed_time(const TransformerInput& input, const TransformerStep& step) const {
        Tensor time = embed_numbers(weights_.time_in, weights_.time_out, rounded(input.timestep.values()),
                                    device(), step);
        if (input.guidance.defined()) {
            std::vector<float> guidance = input.guidance.values();
            for (float& scale : guidance) scale *= kTimesteps;
            residual(time,
                     embed_numbers(weights_.guidance_in, weights_.guidance_out, guidance, device(), step), {},
                     step.context.call);
        }
        activation(ActivationFunction::silu, time, time, step.context.call);
        return time;
    }

    Flux2Modulation modulate(const Tensor& time, const TransformerStep& step) const {
        return {run_linear(weights_.modulation_image, time, step),
                run_linear(weights_.modulation_text, time, step),
                run_linear(weights_.modulation_single, time, step)};
    }

    void embed_tokens(const Flux2Pass& pass, const TransformerInput& input) const {
        const Flux2Tokens& tokens = pass.tokens;
        const std::int64_t length = tokens.image.tokens();
        const MutableView pixels =
            part_of(pass.buffers.scratch.mutable_view(), 0, {tokens.batch * length, config_.in_channels});
        patchify({tokens.batch, tokens.image}, PatchColumns::channels_first, input.hidden_states, pixels,
                 pass.step.context.call);
        const Tensor text =
            input.encoder_hidden_states.reshaped({tokens.batch * tokens.text, config_.text_dim});
        const MutableView hidden = pass.buffers.hidden;
        for (std::int64_t item = 0; item < tokens.batch; ++item) {
            const std::int64_t first = item * tokens.each();
            run_linear(weights_.text_in, rows_of(text.view(), item * tokens.text, tokens.text),
                       rows_of(hidden, first, tokens.text), pass.step);
            run_linear(weights_.image_in, rows_of(pixels, item * length, length),
                       rows_of(hidden, first + tokens.text, length), pass.step);
        }
    }

    void run_blocks(const Flux2Pass& pass, const FiniteChecks& check_finite) const {
        const auto ran = [&](int index, std::span<const LinearSlot* const> layers) {
            const Tensor& hidden = pass.buffers.hidden;
            check_finite(fmt::format("the output of block {}", index), hidden, layers);
            show_block_output(index, hidden, pass.tokens.batch, pass.step);
        };
        const auto doubles = weights_.double_blocks.size(), singles = weights_.single_blocks.size();
        const Flux2Tokens& tokens = pass.tokens;
        const StepCache::Rows rows = {tokens.batch, tokens.each(), tokens.text, tokens.image.tokens()};
        const BlockRun run = {pass.step, pass.buffers.hidden, rows, static_cast<int>(doubles + singles)};
        aerogel::run_blocks(run, [&](int index) {
            const auto i = static_cast<std::size_t>(index);
            if (i >= doubles) {
                const Flux2SingleWeights& block = weights_.single_blocks[i - doubles];
                run_single_block(block, pass, index);
                return ran(index, std::array{&block.to_qkv_mlp, &block.to_out});
            }
            const Flux2DoubleWeights& block = weights_.double_blocks[i];
            run_double_block(block, pass, index);
            const Flux2StreamWeights &image = block.image, &text = block.text;
            ran(index,
                std::array{&image.to_q, &image.to_k, &image.to_v, &image.to_out, &text.to_q, &text.to_k,
                           &text.to_v, &text.to_out, &image.ff_in, &image.ff_out, &text.ff_in, &text.ff_out});
        });
    }

    // AdaLayerNormContinuous of diffusers (scale first, then shift), over the image's tokens.
    Tensor output(const Flux2Pass& pass, const Tensor& time) const {
        const Flux2Tokens& tokens = pass.tokens;
        const std::int64_t dim = config_.inner_dim(), length = tokens.image.tokens();
        const Tensor rows = run_linear(weights_.norm_out, time, pass.step);
        const MutableView pixels =
            part_of(pass.buffers.scratch.mutable_view(), 0, {tokens.batch * length, config_.out_channels});
        const MutableView normed = part_of(pass.buffers.wide.mutable_view(), 0, {tokens.batch * length, dim});
        for (std::int64_t item = 0; item < tokens.batch; ++item) {
            const TensorView modulation = rows_of(rows.view(), item, 1);
            norm({.x = rows_of(pass.buffers.hidden.view(), item * tokens.each() + tokens.text, length),
                  .y = rows_of(normed, item * length, length),
                  .scale = part_of(modulation, 0, {1, dim}),
                  .shift = part_of(modulation, dim, {1, dim}),
                  .epsilon = config_.eps},
                 pass.step.context.call);
        }
        run_linear(weights_.proj_out, normed, pixels, pass.step);
        return unpatchify({tokens.batch, tokens.image}, PatchColumns::channels_first, pixels,
                          pass.step.context.call);
    }

    Flux2Config config_;
    Flux2Weights weights_;
};

}  // namespace

std::unique_ptr<Transformer> load_flux2(const std::filesystem::path& folder, const LoadOptions& options) {
    const Flux2Config config = Flux2Config::read(folder / "config.json");
    return std::make_unique<Flux2Transformer>(
        config, Flux2Weights::load(config, Checkpoint::open(kFlux2, folder, options)));
}

}  // namespace aerogel
