// Kernels that decide which blocks of attention are computed: means of blocks, their products, the best
// blocks of a row, the recall of masks on a sample, lists of kept blocks. What they mean is in
// docs/sparse_attention.md. The order of every float operation is fixed, so that all machines make the same
// masks; products and sums are rounded one by one, never fused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "aerogel/tensor.h"

namespace aerogel {

/// [begin, end) of rows, cells or blocks.
struct IndexRange {
    std::int32_t begin = 0;
    std::int32_t end = 0;
};

/// q or k: element (map, row, d) lies at m / heads * batch + m % heads * head + t * token + d (in elements),
/// where m is first_map + map, and t is order[row], or row without an order.
struct PlanningRows {
    const void* data = nullptr;
    DType dtype = DType::f32;  ///< f32, bf16, on CUDA f16
    std::int64_t batch = 0, head = 0, token = 0;
    std::int64_t first_map = 0, maps = 0, heads = 1, tokens = 0, head_dim = 0;
    const std::int32_t* order = nullptr;
};

/// Keys are multiplied in panels of so many; what fills up the last panel may be anything.
constexpr std::int64_t kKeyPanel = 32;
constexpr std::int64_t in_panels(std::int64_t keys) {
    return (keys + kKeyPanel - 1) / kKeyPanel * kKeyPanel;
}

/// Means of the rows of each cell: summed in float32 in the order of the rows, divided by their number.
struct CellMeansArgs {
    PlanningRows rows;
    const IndexRange* cells = nullptr;
    std::int64_t count = 0;  ///< of cells, none of which is empty
    bool panels = false;
    float* means = nullptr;  ///< [maps, cells, head_dim], or [maps, panels, head_dim, kKeyPanel]
    void* stream = nullptr;  ///< of the device, as in all of these
};

/// scores[map, row, key] = q[map, row, :] . k[map / group, key, :], summed over head_dim in ascending order
/// in float32.
struct MeanProductsArgs {
    const float* q = nullptr;  ///< [maps, rows, head_dim]
    const float* k = nullptr;  ///< [maps / group, panels, head_dim, kKeyPanel]
    float* scores = nullptr;   ///< [maps, rows, in_panels(keys)]
    std::int64_t maps = 0, group = 1, rows = 0, keys = 0, head_dim = 0;
    void* stream = nullptr;
};

/// Keeps the `rank` best scores of each row and all that equal the last of them, and what is always kept. A
/// row with a NaN is kept whole.
struct KeepBestArgs {
    const float* scores = nullptr;         ///< [maps, rows, in_panels(columns)]
    const std::uint8_t* q_kept = nullptr;  ///< [rows]: always, as k_kept [columns]
    const std::uint8_t* k_kept = nullptr;
    std::uint8_t* grid = nullptr;  ///< [maps, rows, columns] of 0 and 1
    std::int64_t maps = 0, rows = 0, columns = 0;
    std::int64_t rank = 1;  ///< 1 .. columns
    void* stream = nullptr;
};

/// The cells of every map from grids that may be finer and that maps may share: a cell is kept where anything
/// of its part is not zero.
struct PlaceCellsArgs {
    const std::uint8_t* from = nullptr;  ///< [grids, from_rows, from_columns]
    /// The grid of a map: choice[map], or without a choice map / heads * of_batch + map % heads * of_head.
    const std::int32_t* choice = nullptr;
    std::int64_t heads = 1, of_batch = 0, of_head = 0;
    std::int64_t from_rows = 0, from_columns = 0;
    const IndexRange* q_parts = nullptr;  ///< [rows] rows of `from`; null: each its own, as many
    const IndexRange* k_parts = nullptr;  ///< [columns] columns of `from`
    std::uint8_t* grid = nullptr;         ///< [maps, rows, columns] of 0 and 1
    std::int64_t maps = 0, rows = 0, columns = 0;
    void* stream = nullptr;

    constexpr std::int64_t grid_of(std::int64_t map) const {
        return choice != nullptr ? choice[map] : map / heads * of_batch + map % heads * of_head;
    }
    static constexpr IndexRange part(const IndexRange* parts, std::int64_t i) {
        if (parts != nullptr) return parts[i];
        return {static_cast<std::int32_t>(i), static_cast<std::int32_t>(i + 1)};
    }
};

/// From the cells that are kept to lists of blocks: block (i, j) is computed when any cell of rows q_reach[i]
/// and columns k_reach[j] is kept. List i of a map has room for all k_blocks: it begins at row_start and ends
/// before row_end, both in elements of `columns`, ascending.
struct BlockListsArgs {
    const std::uint8_t* grid = nullptr;  ///< [maps, rows, columns]
    std::int64_t maps = 0, rows = 0, columns_of_grid = 0;
    const IndexRange* q_reach = nullptr;  ///< [q_blocks]
    const IndexRange* k_reach = nullptr;  ///< [k_blocks]
    std::int64_t q_blocks = 0, k_blocks = 0;
    std::int64_t* row_start = nullptr;  ///< [maps * q_blocks]
    std::int64_t* row_end = nullptr;
    std::int32_t* columns = nullptr;  ///< [maps * q_blocks * k_blocks]
    void* stream = nullptr;
};

constexpr std::int64_t kMostSampledTypes = 3;

/// Softmax of the sampled scores, and of each map the share of it under each mask: the mean over the queries.
/// The best mask is chosen (the first where equal), or number `types` where its recall is under min_recall. A
/// map with a score that is not finite gets NaN, and number `types`. Scores are overwritten.
struct SampleRecallsArgs {
    float* scores = nullptr;  ///< [maps, queries, in_panels(keys)]
    std::int64_t maps = 0, queries = 0, keys = 0;
    const std::uint8_t* masks = nullptr;  ///< [types, queries, in_panels(keys)] of 0 and 1, 0 behind the keys
    std::int64_t types = 0;               ///< at most kMostSampledTypes
    float scale = 1.0F;
    double min_recall = 0.0;
    float* shares = nullptr;         ///< scratch [maps, queries, types]
    double* recalls = nullptr;       ///< [maps, types]
    std::int32_t* choice = nullptr;  ///< [maps]
    void* stream = nullptr;
};

/// How far the sampled outputs of each mask are from those of all sampled keys: squared distances, in float64
/// over the queries. The sums over keys are float32, of the keys that the same masks keep in ascending order,
/// then of these sums. The mask with the least error is chosen (the first where equal), or number `types`
/// where its recall is under min_recall. A map whose recalls or errors are not finite keeps its choice.
struct SampleErrorsArgs {
    const float* weights = nullptr;  ///< [maps, queries, in_panels(keys)], as SampleRecallsArgs leaves them
    const float* values = nullptr;   ///< [maps / group, keys, head_dim]
    const std::uint8_t* masks = nullptr;  ///< as those of SampleRecallsArgs
    const double* recalls = nullptr;      ///< [maps, types]
    double* errors = nullptr;             ///< scratch [maps, queries, types]
    std::int32_t* choice = nullptr;       ///< [maps], read and written
    std::int64_t maps = 0, group = 1, queries = 0, keys = 0, head_dim = 0;
    std::int64_t types = 0;
    double min_recall = 0.0;
    void* stream = nullptr;
};

/// Gives every map the lists and the token orders of its type.
struct FanOutArgs {
    const std::int32_t* choice = nullptr;  ///< [maps], the type of each; null: all of type 0
    std::int64_t maps = 0, q_blocks = 0, q_len = 0, k_len = 0;
    const std::int64_t* type_start = nullptr;  ///< [types, q_blocks] or null: maps have lists of their own
    const std::int64_t* type_end = nullptr;
    std::int64_t* row_start = nullptr;  ///< [maps, q_blocks]; with type_start
    std::int64_t* row_end = nullptr;
    const std::int32_t* q_orders = nullptr;  ///< [types, q_len] or null: tokens as they lie
    const std::int32_t* k_orders = nullptr;  ///< [types, k_len]
    const std::int32_t** q_order = nullptr;  ///< [maps] addresses; with q_orders
    const std::int32_t** k_order = nullptr;
    void* stream = nullptr;
};

/// The scores of a map that its lists keep (short blocks count by their tokens).
struct KeptScoresArgs {
    const std::int64_t* row_start = nullptr;  ///< [maps, q_blocks]
    const std::int64_t* row_end = nullptr;
    const std::int32_t* columns = nullptr;
    std::int64_t maps = 0, q_blocks = 0, k_blocks = 0, q_len = 0, k_len = 0, block_q = 0, block_k = 0;
    std::int64_t* kept = nullptr;  ///< [maps]
    void* stream = nullptr;
};

/// Tokens of a row of strided attention.
constexpr std::int64_t kPlanningStride = 8;
constexpr std::int64_t strided(std::int64_t tokens) {
    return (tokens + kPlanningStride - 1) / kPlanningStride;
}

/// Scores of strided attention, whose rows are kPlanningStride tokens: scores[map, i, j] = the sum over t of
/// q[8 (first_row + i) + 7 - t] . k[8 j + t], tokens past the end being zeros. In the order of the machine's
/// tensor cores; f32 as two bf16, to 2^-16 of each product.
struct StridedProductsArgs {
    PlanningRows q, k;  ///< of maps and maps / group
    std::int64_t group = 1, first_row = 0, rows = 0;
    float* scores = nullptr;  ///< [maps, rows, strided(k.tokens)]
    void* stream = nullptr;
};

/// What rows of blocks of a strided map have in common. Rows of the call begin at block `first_block`.
struct StridedBlocks {
    std::int64_t maps = 0, q_len = 0, k_len = 0;
    std::int64_t block = 0;  ///< of q and k, a multiple of kPlanningStride
    std::int64_t first_block = 0, q_blocks = 0;
    bool causal = false;

    constexpr std::int64_t k_blocks() const { return (k_len + block - 1) / block; }
    constexpr std::int64_t first_row() const { return first_block * (block / kPlanningStride); }
    /// Strided rows of the call.
    constexpr std::int64_t rows() const {
        const std::int64_t left = strided(q_len) - first_row(), all = q_blocks * (block / kPlanningStride);
        return left < all ? left : all;
    }
    /// Last key that query token `token` may see, may be negative.
    constexpr std::int64_t last_seen(std::int64_t token) const {
        return causal ? token + k_len - q_len : k_len - 1;
    }
    /// Strided keys that a strided row of the call sees.
    constexpr std::int64_t seen(std::int64_t row) const {
        const std::int64_t last = last_seen((first_row() + row) * kPlanningStride + kPlanningStride - 1);
        const std::int64_t keys = last < 0 ? 0 : last / kPlanningStride + 1, all = strided(k_len);
        return keys < all ? keys : all;
    }
};

/// The softmax of each strided row, summed over each block of keys in ascending order and divided by the sum
/// of these sums, added up over the rows of a block of queries; in float64. NaN where a score is not finite.
struct BlockSharesArgs {
    StridedBlocks blocks;
    float* scores = nullptr;  ///< [maps, rows, strided(k_len)], overwritten
    float factor = 1.0F;      ///< of the scores
    double* parts = nullptr;  ///< scratch [maps, rows, k_blocks]
    double* sums = nullptr;   ///< [maps, q_blocks, k_blocks]
    void* stream = nullptr;
};

/// Per row of blocks the fewest whose shares reach a part of all, at most a number of them, as
/// docs/sparse_attention.md says. A row with a NaN is kept whole.
struct KeepSharesArgs {
    StridedBlocks blocks;
    double* sums = nullptr;                ///< [maps, q_blocks, k_blocks], overwritten
    double* ranked = nullptr;              ///< scratch [maps, q_blocks, ranked_size(k_blocks)]
    const std::uint8_t* q_kept = nullptr;  ///< of the blocks of the whole map, as k_kept
    const std::uint8_t* k_kept = nullptr;
    double cdf_threshold = 1.0, sparsity = 0.0;
    bool keep_sink = true, keep_recent = true;
    std::uint8_t* grid = nullptr;  ///< [maps, all q blocks, k_blocks]
    void* stream = nullptr;
};
/// The next power of two.
constexpr std::int64_t ranked_size(std::int64_t k_blocks) {
    std::int64_t size = 1;
    while (size < k_blocks) size *= 2;
    return size;
}

struct PlanningKernels {
    std::string_view name;  ///< "cuda.sm80.planning"
    void (*cell_means)(const CellMeansArgs& args) noexcept;
    void (*mean_products)(const MeanProductsArgs& args) noexcept;
    void (*keep_best)(const KeepBestArgs& args) noexcept;
    void (*place_cells)(const PlaceCellsArgs& args) noexcept;
    void (*block_lists)(const BlockListsArgs& args) noexcept;
    void (*sample_recalls)(const SampleRecallsArgs& args) noexcept;
    void (*sample_errors)(const SampleErrorsArgs& args) noexcept;
    void (*fan_out)(const FanOutArgs& args) noexcept;
    void (*kept_scores)(const KeptScoresArgs& args) noexcept;
    /// Null: a float Linear of the device does it.
    void (*strided_products)(const StridedProductsArgs& args) noexcept;
    void (*block_shares)(const BlockSharesArgs& args) noexcept;
    void (*keep_shares)(const KeepSharesArgs& args) noexcept;
};

}  // namespace aerogel
