// Blocks of a pass, with or without a cache of earlier passes.
#pragma once

#include <functional>

#include "aerogel/step_cache.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// The blocks of a family over its residual stream.
struct BlockRun {
    const TransformerStep& step;
    Tensor& hidden;        ///< f32 [rows, dim]
    StepCache::Rows rows;  ///< of the sample; see StepCache
    int blocks;
};

/// Calls block(0), block(1) ... where the step's cache does not leave them out.
void run_blocks(const BlockRun& run, const std::function<void(int)>& block);

}  // namespace aerogel
