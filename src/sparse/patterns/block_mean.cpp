// RainFusion 2 and 3 (arXiv 2512.24086): the mean query of a cell against the mean keys of all cells tells
// which cells matter. The contract ranks softmax(scale * q k^T); softmax and a positive scale keep the
// order of a row, so the plain products are ranked: no exp, and no ties made by underflow.
#include <algorithm>
#include <cmath>
#include <functional>

#include "base/thread_pool.h"
#include "sparse/head_rows.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

// Means of one head: q [query cells, head_dim], k [head_dim, key cells].
struct PooledHead {
    const float* q = nullptr;
    const float* k = nullptr;
    std::int64_t head_dim = 0;
};

// Products of one mean query with all mean keys, summed over head_dim in ascending order in float32.
void score_row(const PooledHead& pooled, std::int64_t row, std::vector<float>& scores) {
    const auto columns = scores.size();
    const float* query = pooled.q + row * pooled.head_dim;
    std::fill(scores.begin(), scores.end(), 0.0F);
    float* out = scores.data();
    for (std::int64_t d = 0; d < pooled.head_dim; ++d) {
        const float factor = query[d];
        const float* keys = pooled.k + static_cast<std::size_t>(d) * columns;
        for (std::size_t c = 0; c < columns; ++c) out[c] += factor * keys[c];
    }
}

struct SideCells {
    Cells q, k;
};

BlockGrid best_cells(const PooledHead& pooled, const SideCells& cells, double sparsity) {
    const std::size_t columns = cells.k.size();
    const auto kept = static_cast<std::int64_t>(std::ceil(static_cast<double>(columns) * (1.0 - sparsity)));
    const auto rank = static_cast<std::ptrdiff_t>(
        std::clamp<std::int64_t>(kept, 1, static_cast<std::int64_t>(columns)) - 1);
    BlockGrid grid(cells.q.size() * columns, 0);
    std::vector<float> scores(columns);
    std::vector<float> ranked;
    for (std::size_t row = 0; row < cells.q.size(); ++row) {
        std::uint8_t* out = grid.data() + row * columns;
        if (cells.q[row].always_kept) {
            std::fill_n(out, columns, std::uint8_t{1});
            continue;
        }
        score_row(pooled, static_cast<std::int64_t>(row), scores);
        ranked = scores;
        std::nth_element(ranked.begin(), ranked.begin() + rank, ranked.end(), std::greater<>());
        const float smallest_kept = ranked[static_cast<std::size_t>(rank)];
        for (std::size_t column = 0; column < columns; ++column)
            out[column] = scores[column] >= smallest_kept || cells.k[column].always_kept ? 1 : 0;
    }
    return grid;
}

std::vector<BlockGrid> block_mean_blocks(const ContentInput& input) {
    const SideCells cells = {pooled_cells(input.sides.q), pooled_cells(input.sides.k)};
    const std::vector<float> q_means = cell_means(input.q, cells.q, false);
    const std::vector<float> k_means = cell_means(input.k, cells.k, true);
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(q_means.begin(), q_means.end(), finite) ||
        !std::all_of(k_means.begin(), k_means.end(), finite))
        fail_not_finite(input.q, input.k);
    std::vector<BlockGrid> grids(static_cast<std::size_t>(input.q.maps()));
    const std::int64_t dim = input.q.head_dim;
    parallel_for(input.q.maps(), [&](std::int64_t map, int) {
        const PooledHead pooled = {
            q_means.data() + map * static_cast<std::int64_t>(cells.q.size()) * dim,
            k_means.data() + kv_map(input.q, input.k, map) * static_cast<std::int64_t>(cells.k.size()) * dim,
            dim};
        grids[static_cast<std::size_t>(map)] = best_cells(pooled, cells, input.pattern.sparsity);
    });
    return grids;
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kBlockMean = {.name = "block_mean",
                                       .q_order = windowed_order,
                                       .k_order = windowed_order,
                                       .cells = pooled_cells,
                                       .content_blocks = block_mean_blocks};
}  // namespace head_patterns

}  // namespace aerogel
