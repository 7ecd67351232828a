// Offline pattern mining over a pipeline: the model makes videos of some captions densely, and a miner looks
// at every self-attention.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "sparse/mining.h"

namespace aerogel {

/// The steps should be those of the later generation.
struct MineOptions {
    MiningOptions mining;
    std::vector<std::string> captions;
    SamplingOptions sampling;
    /// Called after each sampling step; return false to stop (mine() then throws Cancelled).
    std::function<bool(int done, int total)> progress;
};

/// Both passes of classifier-free guidance are seen, as generation runs both. InvalidArgument without
/// captions, or as Pipeline::generate.
AttentionMiner mine(const Pipeline& pipeline, const MineOptions& options);

}  // namespace aerogel
