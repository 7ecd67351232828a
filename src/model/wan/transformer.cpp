// WanTransformer: loading, checking inputs, and one forward pass.
#include "aerogel/wan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "aerogel/error.h"
#include "core/paths.h"
#include "model/checkpoint.h"
#include "model/wan/block.h"
#include "model/wan/embeddings.h"
#include "model/wan/finite.h"
#include "model/wan/patches.h"
#include "model/wan/rotary.h"
#include "model/wan/weights.h"

namespace aerogel {

struct WanTransformer::State {
    WanConfig config;
    WanWeights weights;

    LinearSlot& slot(const std::string& name) {
        const auto slots = weights.slots();
        const auto found = std::find_if(slots.begin(), slots.end(),
                                        [&](const LinearSlot* candidate) { return candidate->name == name; });
        if (found == slots.end()) {
            throw InvalidArgument(
                fmt::format("[wan] the model has no Linear {}; it has {} of them, from {} to {}", name,
                            slots.size(), slots.front()->name, slots.back()->name));
        }
        return **found;
    }

    WanAttentionWeights& attention(const std::string& name) {
        const auto all = weights.attentions();
        const auto found = std::find_if(all.begin(), all.end(), [&](const WanAttentionWeights* candidate) {
            return candidate->name() == name;
        });
        if (found != all.end()) return **found;
        throw InvalidArgument(
            fmt::format("[wan] the model has no attention {}; it has {} of them, from {} to {}", name,
                        all.size(), all.front()->name(), all.back()->name()));
    }
};

namespace {

std::string shape_or_none(const Tensor& tensor) {
    return tensor.defined() ? tensor.describe() : "nothing";
}

void check_attention_fits(const std::string& name, const AttentionQuantization& quantization,
                          const WanConfig& config) {
    const std::int64_t d = config.attention_head_dim, heads = config.num_attention_heads;
    const auto fits = [&](const Tensor& rotation) {
        return !rotation.defined() || rotation.shape() == Shape{d, d};
    };
    const auto has = [&](const Tensor& scale) { return scale.defined() && scale.count() == heads; };
    const bool rotations = fits(quantization.q_rotation) && fits(quantization.k_rotation) &&
                           quantization.q_rotation.defined() == quantization.k_rotation.defined();
    const auto& scales = quantization.scales;
    if (rotations && (!scales || (has(scales->q_scale) && has(scales->k_scale) && has(scales->v_scale))))
        return;
    throw InvalidArgument(fmt::format(
        "[wan] {}: rotations must be [{},{}] (both or none) and calibrated scales {} each, got {}, {}, {}",
        name, d, d, heads, shape_or_none(quantization.q_rotation), shape_or_none(quantization.k_rotation),
        scales ? shape_or_none(scales->q_scale) : "no scales"));
}

// -1 in `wanted` stands for any size.
void check_shape(const char* name, const Tensor& tensor, const Shape& wanted) {
    bool fits = tensor.defined() && tensor.dtype() == DType::f32 && tensor.shape().size() == wanted.size();
    for (std::size_t i = 0; fits && i < wanted.size(); ++i) {
        fits = wanted[i] < 0 || tensor.dim(i) == wanted[i];
    }
    if (fits) return;
    std::string text;
    for (const std::int64_t size : wanted) {
        text += (text.empty() ? "" : ",") + (size < 0 ? std::string("*") : std::to_string(size));
    }
    throw InvalidArgument(fmt::format("[wan] {} must be f32[{}], got {}", name, text, shape_or_none(tensor)));
}

PatchGrid patch_grid(const WanConfig& config, const Tensor& video) {
    check_shape("hidden_states", video, {-1, config.in_channels, -1, -1, -1});
    const auto& patch = config.patch_size;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        if (video.dim(axis + 2) < 1 || video.dim(axis + 2) % patch[axis] != 0) {
            throw InvalidArgument(
                fmt::format("[wan] hidden_states must be multiples of patch_size [{},{},{}], got {}",
                            patch[0], patch[1], patch[2], video.describe()));
        }
    }
    if (video.dim(0) < 1) throw InvalidArgument("[wan] the batch is empty, got " + video.describe());
    const LatentShape grid{video.dim(2) / patch[0], video.dim(3) / patch[1], video.dim(4) / patch[2]};
    const std::int64_t longest = std::max({grid.frames, grid.height, grid.width});
    if (longest > config.rope_max_seq_len) {
        throw InvalidArgument(
            fmt::format("[wan] at most rope_max_seq_len = {} patches along an axis, got {} for {}",
                        config.rope_max_seq_len, longest, video.describe()));
    }
    return {video.dim(0), grid, patch[0], patch[1], patch[2]};
}

void check_image(const WanConfig& config, const Tensor& image, std::int64_t batch) {
    if (!image.defined()) return;
    if (!config.image_dim) {
        throw InvalidArgument("[wan] this model takes no image embeddings (image_dim is null), got " +
                              image.describe());
    }
    // A position table covers two images per video, laid one after the other along the batch.
    const std::int64_t images = config.pos_embed_seq_len ? 2 * batch : batch;
    check_shape("encoder_hidden_states_image", image, {images, -1, *config.image_dim});
    if (config.pos_embed_seq_len && 2 * image.dim(1) != *config.pos_embed_seq_len) {
        throw InvalidArgument(
            fmt::format("[wan] two images must have pos_embed_seq_len = {} tokens, got 2 x {} ({})",
                        *config.pos_embed_seq_len, image.dim(1), image.describe()));
    }
}

void check_conditions(const WanConfig& config, const WanInput& input, const PatchGrid& patches) {
    const bool per_token = input.timestep.defined() && input.timestep.shape().size() == 2;
    check_shape("timestep", input.timestep,
                per_token ? Shape{patches.batch, patches.grid.tokens()} : Shape{patches.batch});
    check_shape("encoder_hidden_states", input.encoder_hidden_states, {patches.batch, -1, config.text_dim});
    check_image(config, input.encoder_hidden_states_image, patches.batch);
}

// The output norm's modulation: its own table plus the plain time embedding, as shift and scale rows.
void add_output_table(const WanPass& pass, const Tensor& table) {
    const std::int64_t dim = pass.config.inner_dim();
    const auto* time = pass.conditions.time.as<float>();
    auto* out = pass.buffers.modulation.as<float>();
    for (std::int64_t run = 0; run < pass.conditions.runs.count(); ++run) {
        for (std::int64_t i = 0; i < 2 * dim; ++i) {
            *out++ = table.as<float>()[i] + time[run * dim + i % dim];
        }
    }
}

void embed_patches(const WanPass& pass, const Linear& patch_embedding, const Tensor& video) {
    auto* rows = pass.buffers.scratch.as<float>();
    patchify(pass.patches, video, rows);
    patch_embedding.forward(rows_view(rows, pass.patches.rows(), patch_embedding.in_features()),
                            pass.buffers.hidden, pass.step.context);
}

Tensor output_video(const WanPass& pass, const WanWeights& weights) {
    add_output_table(pass, weights.scale_shift_table);
    modulated_norm(pass, {/*rows_per_run=*/2, /*shift=*/0, /*scale=*/1});
    auto* rows = pass.buffers.scratch.as<float>();
    const std::int64_t columns = weights.proj_out.layer->out_features();
    run_linear(weights.proj_out, pass.buffers.normed, rows_view(rows, pass.patches.rows(), columns),
               pass.step);
    const PatchGrid& patches = pass.patches;
    Tensor video(DType::f32,
                 {patches.batch, pass.config.out_channels, patches.grid.frames * patches.patch_frames,
                  patches.grid.height * patches.patch_height, patches.grid.width * patches.patch_width});
    unpatchify(patches, rows, video);
    return video;
}

}  // namespace

WanTransformer::WanTransformer(std::unique_ptr<State> state) : state_(std::move(state)) {}
WanTransformer::WanTransformer(WanTransformer&&) noexcept = default;
WanTransformer& WanTransformer::operator=(WanTransformer&&) noexcept = default;
WanTransformer::~WanTransformer() = default;

WanTransformer WanTransformer::load(const std::filesystem::path& folder) {
    const bool plain = path_exists(folder / "config.json");
    const auto home = plain ? folder : folder / "transformer";
    if (!path_exists(home / "config.json")) {
        throw IoError(fmt::format("[wan] neither {0}/config.json nor {0}/transformer/config.json exists",
                                  folder.string()));
    }
    auto state = std::make_unique<State>();
    state->config = WanConfig::read(home / "config.json");
    state->weights = WanWeights::load(state->config, Checkpoint::open(home));
    return WanTransformer(std::move(state));
}

const WanConfig& WanTransformer::config() const {
    return state_->config;
}

Tensor WanTransformer::forward(const WanInput& input, const WanStep& given) const {
    WanStep step = given;
    if (step.timestep_policy) step.context = step.timestep_policy->context(step.context.timestep_index);
    const WanConfig& config = state_->config;
    const WanWeights& weights = state_->weights;
    const PatchGrid patches = patch_grid(config, input.hidden_states);
    check_conditions(config, input, patches);
    check_finite_input(input);
    const WanConditioning conditions = embed_conditions(weights, config, input, step);
    check_finite_conditions(conditions, weights, step);
    const RotaryTable rotary = rotary_table(patches.grid, config.attention_head_dim);
    WanBuffers buffers(config, patches, conditions);
    const WanPass pass{config, step, patches, conditions, rotary, buffers};

    embed_patches(pass, *weights.patch_embedding, input.hidden_states);
    check_finite_patches(buffers.hidden, weights, step);
    for (std::size_t i = 0; i < weights.blocks.size(); ++i) {
        run_block(weights.blocks[i], pass, static_cast<int>(i));
        check_finite_block(buffers.hidden, weights.blocks[i], static_cast<int>(i), step);
        if (!step.on_block_output) continue;
        const Tensor shaped =
            buffers.hidden.reshaped({patches.batch, patches.grid.tokens(), config.inner_dim()});
        step.on_block_output(static_cast<int>(i), shaped);
    }
    const Tensor video = output_video(pass, weights);
    check_finite_output(video, weights, step);
    return video;
}

void WanTransformer::check_intact() const {
    state_->weights.file.check_intact();
}

std::vector<std::string> WanTransformer::linear_names() const {
    std::vector<std::string> names;
    for (const LinearSlot* slot : state_->weights.slots()) names.push_back(slot->name);
    return names;
}

const Linear& WanTransformer::linear(const std::string& name) const {
    return *state_->slot(name).layer;
}

void WanTransformer::replace_linear(const std::string& name, std::unique_ptr<Linear> linear) {
    LinearSlot& slot = state_->slot(name);
    if (linear == nullptr) throw InvalidArgument("[wan] " + name + " cannot be replaced by nothing");
    const auto in = slot.layer->in_features();
    const auto out = slot.layer->out_features();
    if (linear->in_features() != in || linear->out_features() != out) {
        throw InvalidArgument(fmt::format("[wan] {} must have {} -> {} features, got {} -> {}", name, in, out,
                                          linear->in_features(), linear->out_features()));
    }
    slot.layer = std::move(linear);
}

std::vector<std::string> WanTransformer::attention_names() const {
    std::vector<std::string> names;
    for (const WanAttentionWeights* attention : state_->weights.attentions())
        names.push_back(attention->name());
    return names;
}

const std::optional<AttentionQuantization>& WanTransformer::attention(const std::string& name) const {
    return state_->attention(name).quantization;
}

void WanTransformer::set_attention(const std::string& name,
                                   std::optional<AttentionQuantization> quantization) {
    WanAttentionWeights& weights = state_->attention(name);
    if (quantization) check_attention_fits(name, *quantization, state_->config);
    weights.quantization = std::move(quantization);
}

std::size_t WanTransformer::weight_bytes() const {
    std::size_t bytes = state_->weights.other_bytes;
    for (const LinearSlot* slot : state_->weights.slots()) bytes += slot->layer->weight_bytes();
    return bytes;
}

}  // namespace aerogel
