// What a Wan transformer knows before its blocks run: the timestep, text and image embeddings
// (WanTimeTextImageEmbedding of diffusers).
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/tensor.h"
#include "model/wan/config.h"
#include "model/wan/weights.h"

namespace aerogel {

/// Consecutive token rows of the whole batch that share a timestep. Run i covers the rows
/// [starts[i], starts[i + 1]). Wan2.2's per-token timesteps have few distinct runs, so that embeddings and
/// modulation cost as little as with one timestep per video.
struct TimeRuns {
    std::vector<std::int64_t> starts;
    std::vector<float> timesteps;

    std::int64_t count() const { return static_cast<std::int64_t>(timesteps.size()); }
    /// Rows of every run if they all have the same, else 0.
    std::int64_t uniform_length() const;
};

/// From timesteps [batch] or [batch, tokens].
TimeRuns time_runs(const Tensor& timestep, std::int64_t batch, std::int64_t tokens);

/// Everything the blocks are conditioned on, on the device of the input.
struct WanConditioning {
    TimeRuns runs;
    Tensor time;        ///< f32 [runs, inner_dim]
    Tensor modulation;  ///< f32 [runs, 6 * inner_dim]
    Tensor text;        ///< f32 [batch, text tokens, inner_dim]
    Tensor image;       ///< f32 [batch, image tokens, inner_dim]; no tokens without added projections
};

/// InvalidArgument when text or image do not fit each other; single shapes have been checked.
WanConditioning embed_conditions(const WanWeights& weights, const WanConfig& config,
                                 const TransformerInput& input, const TransformerStep& step);

}  // namespace aerogel
