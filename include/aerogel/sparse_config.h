// When the self-attentions of a model are sparse while it samples, and what became of them.
// layer: sparse
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "aerogel/sparse_attention.h"
#include "aerogel/sparse_profile.h"

namespace aerogel {

/// Sparse self-attention during sampling.
struct SparseConfig {
    SparsePattern pattern = {};
    AttentionFormat format = AttentionFormat::none;  ///< none: that of the module
    int start_step = 0;                              ///< dense before this step
    int end_step = -1;                               ///< dense from this step on; -1 = never
    std::vector<int> skip_layers = {};               ///< dense blocks
    /// A plan serves for so many steps (at least 1), see SparsePlans.
    int mask_refresh_steps = 1;
    std::shared_ptr<const SparseProfile> profile = {};  ///< rf_v1: pins the head types, nothing is recognised

    /// Whether block `block` is sparse at `step`; an unknown step (-1) counts as inside the range.
    bool is_sparse(int block, int step) const {
        if (pattern.type == "none") return false;
        if (step >= 0 && (step < start_step || (end_step >= 0 && step >= end_step))) return false;
        return std::find(skip_layers.begin(), skip_layers.end(), block) == skip_layers.end();
    }
};

/// The plans of one sequence of passes (one per caption), kept from step to step, by block of the model.
struct KeptSparsePlan {
    int step = -1;  ///< in which it was made; -1: never
    SparsePlan plan = {};
};
using SparsePlans = std::vector<KeptSparsePlan>;

/// What one sparse call of a model did.
struct SparseReport {
    std::vector<SparseHead> heads = {};  ///< batch * heads
    std::string dense_because = {};      ///< as in SparsePlan
    bool predicted = true;               ///< false: decided by a kept plan or a profile
    double predict_seconds = 0.0;
    double attention_seconds = 0.0;
    /// Of a plan on a device, until read(): heads and dense_because are not known yet. The seconds are those
    /// that the calls took to be put on the stream.
    std::shared_ptr<const HeadFacts> on_device = {};

    double density() const { return density_of(heads); }
    /// Waits for the device where there is something to read.
    void read();
};

}  // namespace aerogel
