// One block of a Wan transformer (self-attention, cross-attention, feed-forward) and the buffers that all
// blocks of a forward pass share.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/patches.h"
#include "model/rotary.h"
#include "model/wan/config.h"
#include "model/wan/embeddings.h"
#include "model/wan/weights.h"

namespace aerogel {

/// Memory of one forward pass, planned once: the residual stream, one array of its size, and scratch that
/// holds q, k, v, then the cross-attention's arrays, then the feed-forward's inner activations.
struct WanBuffers {
    Tensor hidden;      ///< [rows, inner_dim]
    Tensor normed;      ///< [rows, inner_dim]: input of each sub-layer, then the attention's output
    Tensor modulation;  ///< [runs, 6, inner_dim] of the current block, then [runs, 2, inner_dim]
    Tensor scratch;     ///< flat

    WanBuffers(const WanConfig& config, const PatchGrid& patches, const WanConditioning& conditions,
               Device device);
};

/// What every block of a pass is given.
struct WanPass {
    const WanConfig& config;
    const TransformerStep& step;
    const PatchGrid& patches;
    const WanConditioning& conditions;
    const RotaryTable& rotary;
    WanBuffers& buffers;
};

/// Advances buffers.hidden by block `index`.
void run_block(const WanBlockWeights& weights, const WanPass& pass, int index);

/// buffers.normed = layer_norm(buffers.hidden) * (1 + scale) + shift, per run of tokens;
/// buffers.modulation holds `rows_per_run` rows per run, shift and scale are indices into them.
struct ModulationRows {
    std::int64_t rows_per_run;
    std::int64_t shift;
    std::int64_t scale;
};
void modulated_norm(const WanPass& pass, const ModulationRows& rows);

}  // namespace aerogel
