// RainFusion 2 (arXiv 2512.24086): the mean query of a block against the mean keys of all blocks tells
// which blocks matter. The contract ranks softmax(scale * q k^T); softmax and a positive scale keep the
// order of a row, so the plain products are ranked: no exp, and no ties made by underflow.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

// Products of one mean query with all mean keys, summed over head_dim in ascending order in float32.
void score_row(const PooledHead& pooled, const float* query, std::vector<float>& scores) {
    const auto columns = scores.size();
    std::fill(scores.begin(), scores.end(), 0.0F);
    float* out = scores.data();
    for (std::int64_t d = 0; d < pooled.head_dim; ++d) {
        const float factor = query[d];
        const float* keys = pooled.k + static_cast<std::size_t>(d) * columns;
        for (std::size_t c = 0; c < columns; ++c) out[c] += factor * keys[c];
    }
    // A NaN cannot be ranked; where the input is broken nothing is left out.
    for (std::size_t c = 0; c < columns; ++c) {
        if (std::isnan(out[c])) out[c] = std::numeric_limits<float>::infinity();
    }
}

}  // namespace

TokenLayout block_mean_layout(const SparseGeometry& geometry) {
    return {windowed_order(geometry), windowed_order(geometry)};
}

BlockGrid block_mean_blocks(const SparseGeometry& geometry, const PooledHead& pooled) {
    const std::int64_t blocks = geometry.blocks();
    const std::int64_t text_means = (geometry.txt_len + geometry.block - 1) / geometry.block;
    const std::int64_t means = geometry.video_blocks() + text_means;
    const auto kept =
        static_cast<std::int64_t>(std::ceil(static_cast<double>(means) * (1.0 - geometry.sparsity)));
    const auto rank = static_cast<std::ptrdiff_t>(std::clamp<std::int64_t>(kept, 1, means) - 1);
    BlockGrid grid(static_cast<std::size_t>(blocks * blocks), 0);
    std::vector<float> scores(static_cast<std::size_t>(means));
    std::vector<float> ranked;
    // In between lie whole video blocks only: there a mean and a block of the grid are the same.
    for (std::int64_t row = geometry.protected_end(); row < geometry.text_begin(); ++row) {
        score_row(pooled, pooled.q + row * pooled.head_dim, scores);
        ranked = scores;
        std::nth_element(ranked.begin(), ranked.begin() + rank, ranked.end(), std::greater<>());
        const float smallest_kept = ranked[static_cast<std::size_t>(rank)];
        for (std::int64_t column = geometry.protected_end(); column < geometry.text_begin(); ++column) {
            if (scores[static_cast<std::size_t>(column)] >= smallest_kept)
                grid[static_cast<std::size_t>(row * blocks + column)] = 1;
        }
    }
    keep_protected(geometry, grid);
    return grid;
}

}  // namespace aerogel
