// Checking inputs, and one forward pass.
#include "model/wan/transformer.h"

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
#include "model/rotary.h"
#include "model/slots.h"
#include "model/step_cache.h"
#include "model/wan/block.h"
#include "model/wan/embeddings.h"
#include "model/wan/finite.h"
#include "model/wan/original_names.h"
#include "model/wan/weights.h"
#include "ops/elementwise.h"

namespace aerogel {

namespace {

constexpr const char* kFamily = "wan";

PatchGrid checked_patches(const WanConfig& config, const Tensor& video) {
    const PatchGrid patches = patch_grid(kFamily, config, video);
    const LatentShape& grid = patches.grid;
    const std::int64_t longest = std::max({grid.frames, grid.height, grid.width});
    if (longest > config.rope_max_seq_len) {
        throw InvalidArgument(
            fmt::format("[wan] at most rope_max_seq_len = {} patches along an axis, got {} for {}",
                        config.rope_max_seq_len, longest, video.describe()));
    }
    return patches;
}

// Rows and columns get head_dim / 6 pairs each, frames the rest.
RotaryTable video_rotary(const LatentShape& grid, std::int64_t head_dim, Device device) {
    const std::int64_t space_dim = 2 * (head_dim / 6);
    std::vector<std::int64_t> positions;
    add_grid_positions(grid, {0, 0, 0}, positions);
    return rotary_table({.dims = {head_dim - 2 * space_dim, space_dim, space_dim}}, positions, device);
}

void check_image(const WanConfig& config, const Tensor& image, std::int64_t batch) {
    if (!image.defined()) return;
    if (!config.image_dim) {
        throw InvalidArgument("[wan] this model takes no image embeddings (image_dim is null), got " +
                              image.describe());
    }
    // A position table covers two images per video, laid one after the other along the batch.
    const std::int64_t images = config.pos_embed_seq_len ? 2 * batch : batch;
    check_shape(kFamily, "encoder_hidden_states_image", image, {images, -1, *config.image_dim});
    if (config.pos_embed_seq_len && 2 * image.dim(1) != *config.pos_embed_seq_len) {
        throw InvalidArgument(
            fmt::format("[wan] two images must have pos_embed_seq_len = {} tokens, got 2 x {} ({})",
                        *config.pos_embed_seq_len, image.dim(1), image.describe()));
    }
}

void check_conditions(const WanConfig& config, const TransformerInput& input, const PatchGrid& patches) {
    const bool per_token = input.timestep.defined() && input.timestep.shape().size() == 2;
    check_shape(kFamily, "timestep", input.timestep,
                per_token ? Shape{patches.batch, patches.grid.tokens()} : Shape{patches.batch});
    check_shape(kFamily, "encoder_hidden_states", input.encoder_hidden_states,
                {patches.batch, -1, config.text_dim});
    check_image(config, input.encoder_hidden_states_image, patches.batch);
}

// The output norm's modulation: its own table plus the plain time embedding, as shift and scale rows.
void add_output_table(const WanPass& pass, const Tensor& table) {
    const std::int64_t dim = pass.config.inner_dim(), runs = pass.conditions.runs.count();
    const MutableView rows = part_of(pass.buffers.modulation.mutable_view(), 0, {runs, 2 * dim});
    const Context& context = pass.step.context.call;
    copy(part_of(pass.conditions.time.view(), 0, {runs, 2, dim}, {dim, 0, 1}), reshaped(rows, {runs, 2, dim}),
         context);
    residual(rows, table.reshaped({1, 2 * dim}), {}, context);
}

void embed_patches(const WanPass& pass, const Linear& patch_embedding, const Tensor& video) {
    const MutableView rows =
        part_of(pass.buffers.scratch.mutable_view(), 0, {pass.patches.rows(), patch_embedding.in_features()});
    patchify(pass.patches, PatchColumns::channels_first, video, rows, pass.step.context.call);
    patch_embedding.forward(rows, pass.buffers.hidden, pass.step.context);
}

Tensor output_video(const WanPass& pass, const WanWeights& weights) {
    add_output_table(pass, weights.scale_shift_table);
    modulated_norm(pass, {/*rows_per_run=*/2, /*shift=*/0, /*scale=*/1});
    const MutableView rows = part_of(pass.buffers.scratch.mutable_view(), 0,
                                     {pass.patches.rows(), weights.proj_out.layer->out_features()});
    run_linear(weights.proj_out, pass.buffers.normed, rows, pass.step);
    return unpatchify(pass.patches, PatchColumns::channels_last, rows, pass.step.context.call);
}

class WanTransformer final : public Transformer {
  public:
    WanTransformer(const WanConfig& config, WanWeights weights)
        : config_(config), weights_(std::move(weights)) {
        set_parts({kFamily, config_, weights_.slots(), weights_.attentions(), weights_.other_bytes,
                   weights_.device});
    }

    std::span<const OriginalName> original_names() const override { return kWanNames.rows; }

    // The residual stream, its norm and the scratch memory of a block (WanBuffers).
    double forward_bytes(double tokens) const override {
        const auto dim = static_cast<double>(config_.inner_dim());
        const double scratch = std::max(3.0 * dim, static_cast<double>(config_.ffn_dim));
        return sizeof(float) * tokens * (2.0 * dim + scratch);
    }

    void check_intact() const override { weights_.file.check_intact(); }

  private:
    Tensor run(const TransformerInput& input, const TransformerStep& step) const override {
        const PatchGrid patches = checked_patches(config_, input.hidden_states);
        check_conditions(config_, input, patches);
        const FiniteChecks check_finite{kFamily, step};
        check_finite_input(kFamily, input, step.context.call);
        const WanConditioning conditions = embed_conditions(weights_, config_, input, step);
        check_finite_conditions(check_finite, conditions, weights_);
        const RotaryTable rotary = video_rotary(patches.grid, config_.attention_head_dim, device());
        WanBuffers buffers(config_, patches, conditions, device());
        const WanPass pass{config_, step, patches, conditions, rotary, buffers};

        embed_patches(pass, *weights_.patch_embedding.layer, input.hidden_states);
        check_finite("the output of patch_embedding", buffers.hidden, std::array{&weights_.patch_embedding});
        const StepCache::Rows rows = {1, patches.rows(), 0, patches.rows()};
        run_blocks({step, buffers.hidden, rows, static_cast<int>(weights_.blocks.size())}, [&](int i) {
            const WanBlockWeights& block = weights_.blocks[static_cast<std::size_t>(i)];
            run_block(block, pass, i);
            check_finite_block(check_finite, buffers.hidden, block, i);
            show_block_output(i, buffers.hidden, patches.batch, step);
        });
        const Tensor video = output_video(pass, weights_);
        check_finite("the output of the model", video, std::array{&weights_.proj_out});
        return video;
    }

    WanConfig config_;
    WanWeights weights_;
};

}  // namespace

std::unique_ptr<Transformer> load_wan(const std::filesystem::path& folder, const LoadOptions& options) {
    const WanConfig config = WanConfig::read(folder / "config.json");
    return std::make_unique<WanTransformer>(
        config, WanWeights::load(config, Checkpoint::open(kFamily, folder, options)));
}

}  // namespace aerogel
