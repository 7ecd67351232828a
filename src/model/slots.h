// How the layers of a model run in a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "aerogel/sparse_attention.h"
#include "aerogel/tensor.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// y[rows, out_features] = layer(x[rows, in_features]), after showing x to the step's on_linear_input.
/// Nothing happens when there are no rows.
void run_linear(const LinearSlot& slot, const TensorView& x, const MutableView& y,
                const TransformerStep& step);
/// The same into a new array on the device of x.
Tensor run_linear(const LinearSlot& slot, const TensorView& x, const TransformerStep& step);

/// Shows on_block_output the residual stream f32 [items * rows, dim] as [items, rows, dim], on the CPU.
void show_block_output(int block, const Tensor& hidden, std::int64_t items, const TransformerStep& step);

/// One call of an attention module: arrays f32 [batch, tokens, heads, head_dim].
struct ModuleCall {
    int block = 0;         ///< index
    bool is_self = false;  ///< over the video's own tokens, and perhaps those of the text: may be sparse
    TensorView q, k, v;
    MutableView o;
    LatentShape latent;         ///< the video in tokens
    std::int64_t text_len = 0;  ///< of joint attention: text tokens among those of q, k and v
    bool text_first = true;     ///< they are before the video, else after it
};

/// The head types of a block at a step. InvalidArgument when the profile has another number of heads than the
/// model, or no such block.
std::vector<std::string> pinned_types(const SparseProfile& profile, int block, int step, std::int64_t heads);

/// o = attention(q, k, v) as the module holds it and the step wants it: quantized, sparse, after showing it
/// to the step's on_attention_input.
void run_attention(const AttentionSlot& slot, const ModuleCall& call, const TransformerStep& step);

}  // namespace aerogel
