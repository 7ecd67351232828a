// When a self-attention of the model is sparse, and with whose decisions: predicted anew, kept from an
// earlier step, or pinned by a profile.
#pragma once

#include "aerogel/transformer.h"

namespace aerogel {

/// Whether block `block` is sparse at `step`; an unknown step (-1) counts as inside the range.
bool is_sparse(const SparseConfig* config, int block, int step);

/// One self-attention: arrays [batch, tokens, heads, head_dim].
struct SelfAttention {
    TensorView q, k, v, o;
    LatentShape latent;
    int block = 0;
    const AttentionOptions* quantized = nullptr;  ///< how the module computes, null: in float
};

/// Runs it with step.sparse, and keeps what it decided in step.sparse_memory. InvalidArgument when the
/// profile has other layers or heads than the model.
SparseReport run_sparse(const SelfAttention& call, const TransformerStep& step);

}  // namespace aerogel
