// A sparse self-attention of the model, planned anew, by a plan of an earlier step, or with the head types of
// a profile.
#pragma once

#include "aerogel/transformer.h"

namespace aerogel {

/// One self-attention: arrays [batch, tokens, heads, head_dim].
struct SelfAttention {
    AttentionArrays arrays;
    LatentShape latent;
    int block = 0;
    const AttentionOptions* quantized = nullptr;  ///< how the module computes, null: in float
};

/// Runs it with step.sparse, and keeps its plan in step.sparse_plans. InvalidArgument when the profile has
/// other layers or heads than the model.
SparseReport run_sparse(const SelfAttention& call, const TransformerStep& step);

}  // namespace aerogel
