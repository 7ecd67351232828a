// The planning kernels of the CPU: plain loops in the order that kernels/planning.h fixes, written so that
// every x86-64 vectorises them.
#include "kernels/planning.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "kernels/lane_sum.h"
#include "kernels/reference/kernels.h"
#include "kernels/softmax_numerators.h"

namespace aerogel::reference {
namespace {

template <typename T>
void add_values(const void* row, std::int64_t count, float* sum) {
    const T* values = static_cast<const T*>(row);
    for (std::int64_t d = 0; d < count; ++d) {
        if constexpr (std::is_same_v<T, float>) {
            sum[d] += values[d];
        } else {
            sum[d] += to_float(values[d]);
        }
    }
}

void add_row(const PlanningRows& rows, std::int64_t map, std::int64_t row, float* sum) {
    const std::int64_t token = rows.order == nullptr ? row : rows.order[row];
    map += rows.first_map;
    const std::int64_t at = map / rows.heads * rows.batch + map % rows.heads * rows.head + token * rows.token;
    const auto* from =
        static_cast<const std::byte*>(rows.data) + at * static_cast<std::int64_t>(size_of(rows.dtype));
    if (rows.dtype == DType::f32) {
        add_values<float>(from, rows.head_dim, sum);
    } else {
        add_values<BFloat16>(from, rows.head_dim, sum);
    }
}

void mean_of_cell(const CellMeansArgs& args, std::int64_t map, std::int64_t cell) {
    const std::int64_t dim = args.rows.head_dim;
    const auto [begin, end] = args.cells[cell];
    float sum[256] = {};
    for (std::int64_t row = begin; row < end; ++row) add_row(args.rows, map, row, sum);
    float* out = args.means + (map * args.count + cell) * dim;
    if (args.panels)
        out = args.means + (map * in_panels(args.count) + cell / kKeyPanel * kKeyPanel) * dim +
              cell % kKeyPanel;
    const std::int64_t step = args.panels ? kKeyPanel : 1;
    for (std::int64_t d = 0; d < dim; ++d) out[d * step] = sum[d] / static_cast<float>(end - begin);
}

void cell_means(const CellMeansArgs& args) noexcept {
    // Cells that share cache lines of a panel are one task: threads would take the lines from each other.
    constexpr std::int64_t kCellsOfTask = 16;
    const std::int64_t portions = (args.count + kCellsOfTask - 1) / kCellsOfTask;
    parallel_for(args.rows.maps * portions, [&](std::int64_t task, int) {
        const std::int64_t first = task % portions * kCellsOfTask;
        for (std::int64_t cell = first; cell < std::min(first + kCellsOfTask, args.count); ++cell)
            mean_of_cell(args, task / portions, cell);
    });
}

void mean_products(const MeanProductsArgs& args) noexcept {
    const std::int64_t padded = in_panels(args.keys);
    parallel_for(args.maps * args.rows, [&](std::int64_t task, int) {
        const float* query = args.q + task * args.head_dim;
        const float* keys = args.k + task / args.rows / args.group * args.head_dim * padded;
        for (std::int64_t first = 0; first < padded; first += kKeyPanel) {
            float sums[kKeyPanel] = {};
            for (std::int64_t d = 0; d < args.head_dim; ++d, keys += kKeyPanel) {
                for (std::int64_t i = 0; i < kKeyPanel; ++i) sums[i] += query[d] * keys[i];
            }
            std::copy_n(sums, kKeyPanel, args.scores + task * padded + first);
        }
    });
}

bool has_nan(const float* x, std::int64_t count) {
    return std::any_of(x, x + count, [](float value) { return std::isnan(value); });
}

void keep_best(const KeepBestArgs& args) noexcept {
    constexpr std::int64_t kRowsOfTask = 16;
    const auto columns = static_cast<std::size_t>(args.columns);
    const std::int64_t rows = args.maps * args.rows;
    parallel_for((rows + kRowsOfTask - 1) / kRowsOfTask, [&](std::int64_t task, int) {
        std::vector<float> ranked(columns);
        const std::int64_t first = task * kRowsOfTask;
        for (std::int64_t row = first; row < std::min(first + kRowsOfTask, rows); ++row) {
            const float* scores = args.scores + row * in_panels(args.columns);
            std::uint8_t* out = args.grid + row * args.columns;
            if (args.q_kept[row % args.rows] != 0 || has_nan(scores, args.columns)) {
                std::fill_n(out, columns, std::uint8_t{1});
                continue;
            }
            std::copy_n(scores, columns, ranked.begin());
            std::nth_element(ranked.begin(), ranked.begin() + (args.rank - 1), ranked.end(),
                             std::greater<>());
            const float smallest_kept = ranked[static_cast<std::size_t>(args.rank - 1)];
            for (std::size_t c = 0; c < columns; ++c)
                out[c] = scores[c] >= smallest_kept || args.k_kept[c] != 0 ? 1 : 0;
        }
    });
}

bool any_kept(const std::uint8_t* cells, const IndexRange& range) {
    return std::any_of(cells + range.begin, cells + range.end, [](std::uint8_t kept) { return kept != 0; });
}

void place_cells(const PlaceCellsArgs& args) noexcept {
    parallel_for(args.maps * args.rows, [&](std::int64_t task, int) {
        const IndexRange rows = args.part(args.q_parts, task % args.rows);
        const std::uint8_t* from =
            args.from + args.grid_of(task / args.rows) * args.from_rows * args.from_columns;
        for (std::int64_t column = 0; column < args.columns; ++column) {
            bool kept = false;
            for (std::int32_t row = rows.begin; row < rows.end && !kept; ++row)
                kept = any_kept(from + row * args.from_columns, args.part(args.k_parts, column));
            args.grid[task * args.columns + column] = kept ? 1 : 0;
        }
    });
}

void block_lists(const BlockListsArgs& args) noexcept {
    parallel_for(args.maps * args.q_blocks, [&](std::int64_t task, int) {
        const IndexRange rows = args.q_reach[task % args.q_blocks];
        const std::uint8_t* grid = args.grid + task / args.q_blocks * args.rows * args.columns_of_grid;
        const std::int64_t start = task * args.k_blocks;
        std::int64_t end = start;
        for (std::int64_t block = 0; block < args.k_blocks; ++block) {
            bool kept = false;
            for (std::int32_t row = rows.begin; row < rows.end && !kept; ++row)
                kept = any_kept(grid + row * args.columns_of_grid, args.k_reach[block]);
            if (kept) args.columns[end++] = static_cast<std::int32_t>(block);
        }
        args.row_start[task] = start;
        args.row_end[task] = end;
    });
}

// The share of one row's softmax under each mask; NaN where a score is not finite.
void shares_of_row(const SampleRecallsArgs& args, std::int64_t row) {
    const std::int64_t padded = in_panels(args.keys);
    float* weights = args.scores + row * padded;
    float* shares = args.shares + row * args.types;
    if (!all_finite(weights, static_cast<std::size_t>(args.keys))) {
        std::fill_n(shares, args.types, std::numeric_limits<float>::quiet_NaN());
        return;
    }
    std::fill(weights + args.keys, weights + padded, -std::numeric_limits<float>::infinity());
    softmax_numerators(weights, static_cast<std::size_t>(padded), args.scale);
    const float total = lane_sum(padded, [&](std::int64_t i) { return weights[i]; });
    for (std::int64_t type = 0; type < args.types; ++type) {
        const std::uint8_t* mask = args.masks + (type * args.queries + row % args.queries) * padded;
        const float kept =
            lane_sum(padded, [&](std::int64_t i) { return weights[i] * static_cast<float>(mask[i]); });
        shares[type] = kept / total;
    }
}

void sample_recalls(const SampleRecallsArgs& args) noexcept {
    parallel_for(args.maps, [&](std::int64_t map, int) {
        double* recalls = args.recalls + map * args.types;
        std::fill_n(recalls, args.types, 0.0);
        for (std::int64_t query = 0; query < args.queries; ++query) {
            const std::int64_t row = map * args.queries + query;
            shares_of_row(args, row);
            for (std::int64_t type = 0; type < args.types; ++type)
                recalls[type] += static_cast<double>(args.shares[row * args.types + type]);
        }
        std::int32_t best = 0;
        for (std::int64_t type = 0; type < args.types; ++type) {
            recalls[type] /= static_cast<double>(args.queries);
            if (recalls[type] > recalls[best]) best = static_cast<std::int32_t>(type);
        }
        args.choice[map] = recalls[best] >= args.min_recall ? best : static_cast<std::int32_t>(args.types);
    });
}

// What the keys of a query weigh and add up to, by the set of masks that keep them.
class SumsOfSets {
  public:
    SumsOfSets(const SampleErrorsArgs& args, std::int64_t row) : dim_(args.head_dim) {
        const float* weights = args.weights + row * in_panels(args.keys);
        const float* value = args.values + row / args.queries / args.group * args.keys * dim_;
        for (std::int64_t key = 0; key < args.keys; ++key, value += dim_) {
            const std::size_t set = set_of(args, row % args.queries, key);
            weights_[set] += weights[key];
            for (std::int64_t d = 0; d < dim_; ++d) values_[set][d] += weights[key] * value[d];
        }
    }

    // Squared distance of the output under one mask from that of all keys.
    double error(std::int64_t type) const {
        float kept = 0.0F, all = 0.0F;
        for (std::size_t set = 0; set < kSets; ++set) {
            all += weights_[set];
            if ((set >> type & 1) != 0) kept += weights_[set];
        }
        double error = 0.0;
        for (std::int64_t d = 0; d < dim_; ++d) {
            float kept_value = 0.0F, value = 0.0F;
            for (std::size_t set = 0; set < kSets; ++set) {
                value += values_[set][d];
                if ((set >> type & 1) != 0) kept_value += values_[set][d];
            }
            const auto off = static_cast<double>((kept > 0.0F ? kept_value / kept : 0.0F) - value / all);
            error += off * off;
        }
        return error;
    }

  private:
    static constexpr std::size_t kSets = std::size_t{1} << kMostSampledTypes;

    static std::size_t set_of(const SampleErrorsArgs& args, std::int64_t query, std::int64_t key) {
        std::size_t set = 0;
        for (std::int64_t type = 0; type < args.types; ++type) {
            const std::uint8_t* mask = args.masks + (type * args.queries + query) * in_panels(args.keys);
            set |= std::size_t{mask[key]} << type;
        }
        return set;
    }

    std::int64_t dim_;
    float weights_[kSets] = {};
    float values_[kSets][256] = {};
};

void choose_by_error(const SampleErrorsArgs& args, std::int64_t map) {
    const double* recalls = args.recalls + map * args.types;
    if (std::isnan(recalls[0])) return;
    double least = std::numeric_limits<double>::infinity();
    std::int64_t best = 0;
    for (std::int64_t type = 0; type < args.types; ++type) {
        double error = 0.0;
        for (std::int64_t query = 0; query < args.queries; ++query)
            error += args.errors[(map * args.queries + query) * args.types + type];
        if (!std::isfinite(error)) return;
        if (error < least) best = type;
        least = std::min(error, least);
    }
    args.choice[map] = static_cast<std::int32_t>(recalls[best] >= args.min_recall ? best : args.types);
}

void sample_errors(const SampleErrorsArgs& args) noexcept {
    parallel_for(args.maps * args.queries, [&](std::int64_t row, int) {
        const SumsOfSets sums(args, row);
        for (std::int64_t type = 0; type < args.types; ++type)
            args.errors[row * args.types + type] = sums.error(type);
    });
    parallel_for(args.maps, [&](std::int64_t map, int) { choose_by_error(args, map); });
}

void fan_out(const FanOutArgs& args) noexcept {
    for (std::int64_t map = 0; map < args.maps; ++map) {
        const std::int64_t type = args.choice == nullptr ? 0 : args.choice[map];
        if (args.q_orders != nullptr) {
            args.q_order[map] = args.q_orders + type * args.q_len;
            args.k_order[map] = args.k_orders + type * args.k_len;
        }
        if (args.type_start == nullptr) continue;
        std::copy_n(args.type_start + type * args.q_blocks, args.q_blocks,
                    args.row_start + map * args.q_blocks);
        std::copy_n(args.type_end + type * args.q_blocks, args.q_blocks, args.row_end + map * args.q_blocks);
    }
}

void kept_scores(const KeptScoresArgs& args) noexcept {
    for (std::int64_t map = 0; map < args.maps; ++map) {
        std::int64_t kept = 0;
        for (std::int64_t block = 0; block < args.q_blocks; ++block) {
            const std::int64_t begin = args.row_start[map * args.q_blocks + block],
                               end = args.row_end[map * args.q_blocks + block];
            std::int64_t keys = (end - begin) * args.block_k;
            if (end > begin && args.columns[end - 1] == args.k_blocks - 1)
                keys -= args.k_blocks * args.block_k - args.k_len;
            kept += keys * std::min(args.block_q, args.q_len - block * args.block_q);
        }
        args.kept[map] = kept;
    }
}

// The softmax of one strided row, summed within each block of keys, over the sum of all.
void shares_of_strided_row(const BlockSharesArgs& args, std::int64_t map, std::int64_t row) {
    const StridedBlocks& blocks = args.blocks;
    const std::int64_t at = map * blocks.rows() + row, seen = blocks.seen(row), k_blocks = blocks.k_blocks(),
                       each = blocks.block / kPlanningStride;
    double* parts = args.parts + at * k_blocks;
    std::fill_n(parts, k_blocks, 0.0);
    if (seen == 0) return;
    float* scores = args.scores + at * strided(blocks.k_len);
    if (!all_finite(scores, static_cast<std::size_t>(seen))) {
        std::fill_n(parts, k_blocks, std::numeric_limits<double>::quiet_NaN());
        return;
    }
    softmax_numerators(scores, static_cast<std::size_t>(seen), args.factor);
    double total = 0.0;
    for (std::int64_t begin = 0; begin < seen; begin += each) {
        parts[begin / each] = std::accumulate(scores + begin, scores + std::min(begin + each, seen), 0.0);
        total += parts[begin / each];
    }
    for (std::int64_t column = 0; column < k_blocks; ++column) parts[column] /= total;
}

void block_shares(const BlockSharesArgs& args) noexcept {
    const StridedBlocks& blocks = args.blocks;
    const std::int64_t each = blocks.block / kPlanningStride, k_blocks = blocks.k_blocks();
    parallel_for(blocks.maps * blocks.q_blocks, [&](std::int64_t task, int) {
        const std::int64_t map = task / blocks.q_blocks, first = task % blocks.q_blocks * each;
        double* sums = args.sums + task * k_blocks;
        std::fill_n(sums, k_blocks, 0.0);
        for (std::int64_t row = first; row < std::min(first + each, blocks.rows()); ++row) {
            shares_of_strided_row(args, map, row);
            const double* parts = args.parts + (map * blocks.rows() + row) * k_blocks;
            for (std::int64_t column = 0; column < k_blocks; ++column) sums[column] += parts[column];
        }
    });
}

// The smallest score among the fewest blocks that reach the threshold.
double smallest_share(const KeepSharesArgs& args, const double* sums, double* ranked) {
    const std::int64_t columns = args.blocks.k_blocks();
    std::copy_n(sums, columns, ranked);
    std::sort(ranked, ranked + columns, std::greater<>());
    const double wanted = args.cdf_threshold * std::accumulate(ranked, ranked + columns, 0.0);
    double reached = ranked[0];
    std::int64_t enough = 1;
    while (enough < columns && reached < wanted) reached += ranked[enough++];
    const auto most = static_cast<std::int64_t>((1.0 - args.sparsity) * static_cast<double>(columns));
    return ranked[std::max<std::int64_t>(std::min(enough, most), 1) - 1];
}

void keep_shares(const KeepSharesArgs& args) noexcept {
    const StridedBlocks& blocks = args.blocks;
    const std::int64_t columns = blocks.k_blocks(), all = (blocks.q_len + blocks.block - 1) / blocks.block;
    parallel_for(blocks.maps * blocks.q_blocks, [&](std::int64_t task, int) {
        const std::int64_t row = blocks.first_block + task % blocks.q_blocks;
        std::uint8_t* out = args.grid + (task / blocks.q_blocks * all + row) * columns;
        std::fill_n(out, columns, std::uint8_t{0});
        const std::int64_t last = blocks.last_seen(std::min((row + 1) * blocks.block, blocks.q_len) - 1);
        if (last < 0) return;
        const std::int64_t diagonal = std::min(last, blocks.k_len - 1) / blocks.block;
        double* sums = args.sums + task * columns;
        const bool full = args.q_kept[row] != 0 || (blocks.causal && row < 2) || std::isnan(sums[0]);
        sums[columns - 1] = 0.0;
        const double threshold =
            full ? 0.0 : smallest_share(args, sums, args.ranked + task * ranked_size(columns));
        for (std::int64_t column = 0; column <= diagonal; ++column)
            out[column] = full || sums[column] >= threshold || args.k_kept[column] != 0 ? 1 : 0;
        if (args.keep_sink) out[0] = 1;
        if (args.keep_recent) out[diagonal] = 1;
    });
}

}  // namespace

constexpr PlanningKernels kPlanning = {.name = "reference.planning",
                                       .cell_means = cell_means,
                                       .mean_products = mean_products,
                                       .keep_best = keep_best,
                                       .place_cells = place_cells,
                                       .block_lists = block_lists,
                                       .sample_recalls = sample_recalls,
                                       .sample_errors = sample_errors,
                                       .fan_out = fan_out,
                                       .kept_scores = kept_scores,
                                       .strided_products = nullptr,
                                       .block_shares = block_shares,
                                       .keep_shares = keep_shares};

}  // namespace aerogel::reference
