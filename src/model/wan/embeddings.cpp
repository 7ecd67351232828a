// Timestep, text and image embeddings.
#include "model/wan/embeddings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "aerogel/error.h"
#include "core/views.h"
#include "model/sinusoids.h"
#include "model/slots.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// With added projections the last 512 tokens of the context are text, whatever comes before is the image.
constexpr std::int64_t kTextTokens = 512;
constexpr float kImageNormEps = 1e-5F;

void activate(ActivationFunction function, Tensor& x, const TransformerStep& step) {
    activation(function, x, x, step.context.call);
}

void layer_norm(Tensor& x, const Tensor& weight, const Tensor& bias, const TransformerStep& step) {
    norm({.x = x, .y = x, .weight = weight, .bias = bias, .epsilon = kImageNormEps}, step.context.call);
}

void embed_time(const WanWeights& weights, const Tensor& table, const TransformerStep& step,
                WanConditioning& conditions) {
    Tensor hidden = run_linear(weights.time_in, table, step);
    activate(ActivationFunction::silu, hidden, step);
    conditions.time = run_linear(weights.time_out, hidden, step);
    Tensor activated = conditions.time.clone();
    activate(ActivationFunction::silu, activated, step);
    conditions.modulation = run_linear(weights.time_proj, activated, step);
}

// f32 [batch, text_len, inner_dim].
Tensor embed_text(const WanWeights& weights, const Tensor& text, const TransformerStep& step) {
    const std::int64_t rows = text.dim(0) * text.dim(1);
    Tensor hidden = run_linear(weights.text_in, text.reshaped({rows, text.dim(2)}), step);
    activate(ActivationFunction::gelu_tanh, hidden, step);
    const Tensor out = run_linear(weights.text_out, hidden, step);
    return out.reshaped({text.dim(0), text.dim(1), out.dim(1)});
}

// f32 [batch, image_len, inner_dim]. A position table joins pairs of images (first and last frame).
Tensor embed_image(const WanImageEmbedderWeights& weights, const Tensor& image, std::int64_t batch,
                   const TransformerStep& step) {
    const std::int64_t dim = image.dim(2);
    const std::int64_t rows = image.dim(0) * image.dim(1);
    const std::int64_t length = rows / batch;
    Tensor hidden = image.reshaped({rows, dim}).clone();
    if (weights.pos_embed.defined()) {
        for (std::int64_t item = 0; item < batch; ++item)
            residual(rows_of(hidden.mutable_view(), item * length, length), weights.pos_embed, {},
                     step.context.call);
    }
    layer_norm(hidden, weights.norm1_weight, weights.norm1_bias, step);
    Tensor middle = run_linear(weights.ff_in, hidden, step);
    activate(ActivationFunction::gelu_erf, middle, step);
    Tensor out = run_linear(weights.ff_out, middle, step);
    layer_norm(out, weights.norm2_weight, weights.norm2_bias, step);
    return out.reshaped({batch, length, out.dim(1)});
}

// Tokens first .. first + count - 1 of every video, of [batch, tokens, dim].
template <typename View>
View tokens_of(const View& all, std::int64_t first, std::int64_t count) {
    const std::int64_t dim = all.dim(2);
    return part_of(all, first * dim, {all.dim(0), count, dim}, {all.dim(1) * dim, dim, 1});
}

// The tokens [first, first + count) of image and text joined, [batch, count, dim].
Tensor slice_joined(const Tensor& image, const Tensor& text, std::int64_t first, std::int64_t count,
                    const Context& context) {
    const std::int64_t image_len = image.defined() ? image.dim(1) : 0;
    const std::int64_t of_image = std::clamp<std::int64_t>(image_len - first, 0, count);
    Tensor slice(DType::f32, {text.dim(0), count, text.dim(2)}, text.device());
    const MutableView to = slice;
    if (of_image > 0) copy(tokens_of(image.view(), first, of_image), tokens_of(to, 0, of_image), context);
    if (const std::int64_t rest = count - of_image; rest > 0)
        copy(tokens_of(text.view(), first + of_image - image_len, rest), tokens_of(to, of_image, rest),
             context);
    return slice;
}

void join_context(const WanConfig& config, const Tensor& text, const Tensor& image, const Context& context,
                  WanConditioning& conditions) {
    const std::int64_t total = text.dim(1) + (image.defined() ? image.dim(1) : 0);
    if (config.added_kv_proj_dim && total < kTextTokens) {
        throw InvalidArgument(
            fmt::format("[wan] a model with added_kv_proj_dim takes the last {} context tokens as text, got "
                        "{} text and {} image tokens",
                        kTextTokens, text.dim(1), total - text.dim(1)));
    }
    const std::int64_t image_tokens = config.added_kv_proj_dim ? total - kTextTokens : 0;
    conditions.image = slice_joined(image, text, 0, image_tokens, context);
    conditions.text = slice_joined(image, text, image_tokens, total - image_tokens, context);
}

}  // namespace

std::int64_t TimeRuns::uniform_length() const {
    const std::int64_t length = starts[1] - starts[0];
    for (std::size_t i = 1; i < timesteps.size(); ++i) {
        if (starts[i + 1] - starts[i] != length) return 0;
    }
    return length;
}

TimeRuns time_runs(const Tensor& timestep, std::int64_t batch, std::int64_t tokens) {
    const bool per_token = timestep.shape().size() == 2;
    const std::vector<float> values = timestep.values();
    TimeRuns runs;
    for (std::int64_t row = 0; row < batch * tokens; ++row) {
        const float value = values[static_cast<std::size_t>(per_token ? row : row / tokens)];
        // A run never crosses videos, so that one timestep per video stays the uniform case.
        const bool starts_run =
            row % tokens == 0 || std::memcmp(&value, &runs.timesteps.back(), sizeof(float)) != 0;
        if (!starts_run) continue;
        runs.starts.push_back(row);
        runs.timesteps.push_back(value);
    }
    runs.starts.push_back(batch * tokens);
    return runs;
}

WanConditioning embed_conditions(const WanWeights& weights, const WanConfig& config,
                                 const TransformerInput& input, const TransformerStep& step) {
    const std::int64_t batch = input.hidden_states.dim(0);
    const std::int64_t tokens = input.hidden_states.count() / batch / config.in_channels /
                                (config.patch_size[0] * config.patch_size[1] * config.patch_size[2]);
    WanConditioning conditions;
    conditions.runs = time_runs(input.timestep, batch, tokens);
    const Device device = input.hidden_states.device();
    embed_time(weights, sinusoids(conditions.runs.timesteps, config.freq_dim, device), step, conditions);
    const Tensor text = embed_text(weights, input.encoder_hidden_states, step);
    Tensor image;
    if (input.encoder_hidden_states_image.defined()) {
        image = embed_image(weights.image, input.encoder_hidden_states_image, batch, step);
    }
    join_context(config, text, image, step.context.call, conditions);
    return conditions;
}

}  // namespace aerogel
