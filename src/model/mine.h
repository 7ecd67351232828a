// Offline pattern mining over a pipeline: the model makes videos of some captions densely, and a miner looks
// at every self-attention.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "sparse/mining.h"

namespace aerogel {

/// What is unset comes from the pipeline folder. `steps` should be that of the later generation.
struct MineOptions {
    MiningOptions mining;
    std::vector<std::string> captions;
    std::optional<int> steps;
    std::optional<int> frames;
    std::optional<int> height;
    std::optional<int> width;
    std::uint64_t seed = 0;  ///< of the first video; the next one takes the next seed
    /// Called after each sampling step; return false to stop (mine() then throws Cancelled).
    std::function<bool(int done, int total)> progress;
};

/// Both passes of classifier-free guidance are seen, as generation runs both. InvalidArgument without
/// captions, or as Pipeline::generate.
AttentionMiner mine(const Pipeline& pipeline, const MineOptions& options);

}  // namespace aerogel
