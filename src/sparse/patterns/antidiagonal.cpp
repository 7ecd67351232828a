// Adaptive block sparse attention: scores of a strided attention map, whose every product sums an
// antidiagonal of 8 x 8 products (XAttention, arXiv 2503.16428), and per row of blocks the fewest that reach
// a share of the attention. The arithmetic is written down in docs/sparse_attention.md.
#include <algorithm>
#include <atomic>
#include <functional>
#include <numeric>

#include "aerogel/linear.h"
#include "base/thread_pool.h"
#include "sparse/head_rows.h"
#include "sparse/patterns/pattern.h"
#include "sparse/softmax.h"

namespace aerogel {
namespace {

constexpr std::int64_t kStride = 8;
constexpr std::int64_t kChunkRows = 512;  // strided query rows scored at a time

std::int64_t rows_of(std::int64_t tokens, std::int64_t per_row) {
    return (tokens + per_row - 1) / per_row;
}

// f32 [ceil(tokens/8), 8*head_dim] of one map: each row holds 8 consecutive tokens, in order or reversed;
// tokens that are not there are zeros.
Tensor strided_rows(const HeadRows& x, std::int64_t map, bool reversed) {
    const std::int64_t rows = rows_of(x.tokens, kStride);
    const MapRows tokens = x.rows(map);
    Tensor out = Tensor::zeros(DType::f32, {rows, kStride * x.head_dim});
    parallel_for(rows, [&](std::int64_t row, int) {
        for (std::int64_t t = 0; t < kStride && row * kStride + t < x.tokens; ++t) {
            const std::int64_t place = reversed ? kStride - 1 - t : t;
            x.add_row(tokens.at(row * kStride + t),
                      static_cast<float*>(out.mutable_data()) + (row * kStride + place) * x.head_dim);
        }
    });
    return out;
}

class Selection {
  public:
    explicit Selection(const ContentInput& input)
        : input_(input),
          q_cells_(natural_cells(input.sides.q)),
          k_cells_(natural_cells(input.sides.k)),
          strided_keys_(rows_of(input.k.tokens, kStride)),
          factor_(input.scale / static_cast<float>(kStride)) {}

    BlockGrid of_map(std::int64_t map) {
        const std::int64_t width = kStride * input_.q.head_dim;
        const FloatLinear keys(strided_rows(input_.k, kv_map(input_.q, input_.k, map), false), Tensor());
        const Tensor queries = strided_rows(input_.q, map, true);
        const std::int64_t rows_per_block = input_.pattern.block_size / kStride;
        const std::int64_t chunk = std::max(kChunkRows / rows_per_block, std::int64_t{1}) * rows_per_block;
        BlockGrid grid(q_cells_.size() * k_cells_.size(), 0);
        for (std::int64_t first = 0; first < queries.dim(0); first += chunk) {
            const std::int64_t rows = std::min(chunk, queries.dim(0) - first);
            Tensor scores(DType::f32, {rows, strided_keys_});
            keys.forward({DType::f32, {rows, width}, queries.as<float>() + first * width}, scores, {});
            parallel_for(rows_of(rows, rows_per_block), [&](std::int64_t block, int) {
                const std::int64_t begin = block * rows_per_block;
                const std::int64_t end = std::min(begin + rows_per_block, rows);
                const std::int64_t row = first / rows_per_block + block;
                std::vector<double> sums(k_cells_.size(), 0.0);
                for (std::int64_t i = begin; i < end; ++i)
                    add_probabilities(scores.mutable_as<float>() + i * strided_keys_, first + i, sums);
                select(row, sums, grid.data() + row * static_cast<std::int64_t>(k_cells_.size()));
            });
        }
        return grid;
    }

    bool broken() const { return broken_; }

  private:
    /// Last key that query token `token` may see, may be negative.
    std::int64_t last_seen(std::int64_t token) const {
        return input_.causal ? token + input_.k.tokens - input_.q.tokens : input_.k.tokens - 1;
    }

    // The softmax of one strided row, summed within each block of keys. Overwrites the scores.
    void add_probabilities(float* scores, std::int64_t row, std::vector<double>& sums) {
        const std::int64_t last = last_seen(row * kStride + kStride - 1);
        const std::int64_t seen = last < 0 ? 0 : std::min(last / kStride + 1, strided_keys_);
        if (seen == 0) return;
        if (!all_finite(scores, static_cast<std::size_t>(seen))) broken_ = true;
        softmax_numerators(scores, static_cast<std::size_t>(seen), factor_);
        const std::int64_t per_block = input_.pattern.block_size / kStride;
        std::vector<double> parts(sums.size(), 0.0);
        double total = 0.0;
        for (std::int64_t begin = 0; begin < seen; begin += per_block) {
            double& part = parts[static_cast<std::size_t>(begin / per_block)];
            part = std::accumulate(scores + begin, scores + std::min(begin + per_block, seen), 0.0);
            total += part;
        }
        for (std::size_t column = 0; column < sums.size(); ++column) sums[column] += parts[column] / total;
    }

    // The smallest score among the fewest blocks that reach the threshold.
    double smallest_kept(const std::vector<double>& scores) const {
        std::vector<double> ranked = scores;
        std::sort(ranked.begin(), ranked.end(), std::greater<>());
        std::vector<double> reached(ranked.size());
        std::partial_sum(ranked.begin(), ranked.end(), reached.begin());
        const double wanted = input_.pattern.cdf_threshold * reached.back();
        const auto enough = std::lower_bound(reached.begin(), reached.end(), wanted) - reached.begin() + 1;
        const auto most =
            static_cast<std::ptrdiff_t>((1.0 - input_.pattern.sparsity) * static_cast<double>(ranked.size()));
        return ranked[static_cast<std::size_t>(std::max<std::ptrdiff_t>(std::min(enough, most), 1) - 1)];
    }

    void select(std::int64_t row, std::vector<double>& scores, std::uint8_t* out) const {
        const Cell& queries = q_cells_[static_cast<std::size_t>(row)];
        const std::int64_t last = last_seen(queries.end - 1);
        if (last < 0 || broken_) return;
        const auto diagonal =
            static_cast<std::size_t>(std::min(last, input_.k.tokens - 1) / input_.pattern.block_size);
        const bool full = queries.always_kept || (input_.causal && row < 2);
        scores.back() = 0.0;
        const double threshold = smallest_kept(scores);
        for (std::size_t column = 0; column <= diagonal; ++column)
            out[column] = full || scores[column] >= threshold || k_cells_[column].always_kept ? 1 : 0;
        if (input_.pattern.keep_sink) out[0] = 1;
        if (input_.pattern.keep_recent) out[diagonal] = 1;
    }

    const ContentInput& input_;
    Cells q_cells_, k_cells_;
    std::int64_t strided_keys_;
    float factor_;
    std::atomic<bool> broken_ = false;
};

std::vector<BlockGrid> antidiagonal_blocks(const ContentInput& input) {
    Selection selection(input);
    std::vector<BlockGrid> grids;
    for (std::int64_t map = 0; map < input.q.maps(); ++map) grids.push_back(selection.of_map(map));
    if (selection.broken()) fail_not_finite(input.q, input.k);
    return grids;
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kAntidiagonal = {
    .name = "antidiagonal", .cells = natural_cells, .content_blocks = antidiagonal_blocks};
}  // namespace head_patterns

}  // namespace aerogel
