// What the attention kernels of all CPU levels share apart from arithmetic: how queries are cut into tiles,
// which keys a tile meets and in what portions, and where everything lies in the workspace.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/attention.h"

namespace aerogel {
namespace {

constexpr std::int64_t kPanel = 16;         ///< keys per packed panel of k
constexpr std::int64_t kMaxTileRows = 128;  ///< query rows per task
constexpr std::int64_t kTileKeys = 256;     ///< columns of the score tile
constexpr std::int64_t kPackKeys = 256;     ///< keys per packing task
constexpr std::int64_t kAhead = 4;          ///< rows between one that is read and one that is asked for

constexpr std::int64_t round_down(std::int64_t x, std::int64_t to) {
    return x / to * to;
}
constexpr std::int64_t round_up(std::int64_t x, std::int64_t to) {
    return (x + to - 1) / to * to;
}
constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

/// Keys first..last-1, whose scores stand from `column` on in the score tile. Columns begin and end on
/// whole panels: the score of key `k` stands in column + k - round_down(first, width of a panel).
struct Segment {
    std::int64_t first, last, column;
};

/// One portion of keys: at most kTileKeys columns.
struct KeyTile {
    Segment segments[kTileKeys / kPanel];
    int count;
    std::int64_t columns;
};

/// Walks the keys that a row of query blocks sees. Neighbouring kept blocks become one run, so a full
/// mask gives the very tiles (and bits) of dense attention.
struct KeyCursor {
    /// Leaves out the keys that none of the rows first..first + rows - 1 may see; row r may see those before
    /// the result + r.
    std::int64_t hide_later(const AttentionProblem& problem, std::int64_t first_row, std::int64_t rows) {
        if (!problem.causal) return INT64_MAX / 2;  // centroids lie behind the keys
        const std::int64_t seen = first_row + problem.k_len - problem.q_len + 1;
        const std::int64_t all_seen = seen + rows - 1;
        k_len = smaller(k_len, all_seen < 0 ? 0 : all_seen);
        last = smaller(last, k_len);
        return seen;
    }

    const std::int32_t* column = nullptr;  ///< next kept block
    const std::int32_t* end = nullptr;
    std::int64_t block_k = 0;
    std::int64_t k_len = 0;
    std::int64_t first = 0;  ///< the rest of the current run
    std::int64_t last = 0;
    std::int64_t centroid = 0;  ///< where the centroids begin, behind the keys, and how many are to come
    std::int64_t centroids = 0;

    bool next_run() {
        if (column == end || *column * block_k >= k_len) {
            first = centroid;
            last = centroid + centroids;
            centroids = 0;
            return first != last;
        }
        first = *column * block_k;
        last = smaller(first + block_k, k_len);
        for (++column; column != end && *column * block_k == last; ++column)
            last = smaller(last + block_k, k_len);
        return true;
    }

    /// Fills `tile`, in panels of kWidth keys; false when no key is left.
    template <std::int64_t kWidth = kPanel>
    bool next(KeyTile& tile) {
        tile.count = 0;
        tile.columns = 0;
        while (tile.columns < kTileKeys) {
            if (first == last && !next_run()) break;
            const std::int64_t start = round_down(first, kWidth);
            const std::int64_t stop = smaller(last, start + kTileKeys - tile.columns);
            tile.segments[tile.count++] = {first, stop, tile.columns};
            tile.columns += round_up(stop, kWidth) - start;
            first = stop;
        }
        return tile.count != 0;
    }
};

/// The rows of one map; of an input, Element is const.
template <typename Element>
struct Rows {
    Element* first;
    std::int64_t stride;
    const std::int32_t* order;  ///< null: as they lie

    Element* at(std::int64_t row) const { return first + (order == nullptr ? row : order[row]) * stride; }

    /// Asks memory for the `width` elements of a row that will be needed soon, if it is before row `end`.
    /// Where heads lie side by side, each row is in a page of its own, and the hardware does not see what
    /// comes next. Inlined: GCC drops calls of a function that does nothing but prefetch.
    [[gnu::always_inline]] void prefetch(std::int64_t row, std::int64_t end, std::int64_t width) const {
        constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(Element));
        if (row >= end) return;
        const Element* from = at(row);
        for (std::int64_t i = 0; i < width; i += kLine)
            __builtin_prefetch(from + i, !std::is_const_v<Element>);
    }
};

/// Rows whose scores are kStride floats apart; row r may see keys before seen + r only.
struct SeenRows {
    float* scores;
    std::int64_t rows, seen;
};

/// Scores of keys that a row may not see yet get -inf.
template <std::int64_t kStride, std::int64_t kWidth = kPanel>
void hide_later_keys(const SeenRows& of, const KeyTile& keys) {
    for (int s = 0; s < keys.count; ++s) {
        const Segment& segment = keys.segments[s];
        const std::int64_t start = round_down(segment.first, kWidth);
        for (std::int64_t row = 0; row < of.rows && of.seen + row < segment.last; ++row) {
            float* scores = of.scores + row * kStride + segment.column - start;
            const std::int64_t hidden = of.seen + row;
            for (std::int64_t key = hidden < segment.first ? segment.first : hidden; key < segment.last;
                 ++key)
                scores[key] = -__builtin_inff();
        }
    }
}

/// `data` is const where Element is.
template <typename Element, typename Data>
Rows<Element> rows_of(Data* data, const AttentionStrides& strides, std::int64_t heads, std::int64_t map) {
    return {static_cast<Element*>(data) + map / heads * strides.batch +
                map % heads / strides.shared * strides.head,
            strides.token, strides.order == nullptr ? nullptr : strides.order[map]};
}

/// Where the log-sum-exp of the rows of a map of q goes.
inline Rows<float> lse_of(const AttentionProblem& problem, const AttentionCall& call, std::int64_t map) {
    const std::int32_t* const* order = call.o_strides.order;
    return {call.lse + map * problem.q_len, 1, order == nullptr ? nullptr : order[map]};
}

/// log(2^largest * sum); -infinity for rows that saw no key.
inline float log_sum_exp(bool empty, float largest, float sum) {
    constexpr float kLn2 = 0.693147181F;
    return empty ? -__builtin_inff() : largest * kLn2 + __builtin_logf(sum);
}

inline KeyCursor keys_of(const AttentionProblem& problem, const MaskRows& mask, std::int64_t map,
                         std::int64_t block) {
    KeyCursor cursor;
    cursor.k_len = problem.k_len;
    if (mask.row_start == nullptr) {
        cursor.last = problem.k_len;
        return cursor;
    }
    const std::int64_t row = map * problem.q_blocks() + block;
    cursor.column = mask.first(row);
    cursor.end = mask.last(row);
    cursor.block_k = problem.block_k;
    return cursor;
}

/// How the queries of every map are cut into tasks.
struct QueryTiles {
    std::int64_t tile_rows, block_rows;   ///< rows per task and per query block (dense: equal)
    std::int64_t tiles_per_block, tiles;  ///< tasks per query block and per map

    /// Rows of one task: at most `most`; fewer, but more than `least` / 2, where there would be few tasks.
    void cut_queries(const AttentionProblem& problem, std::int64_t most, std::int64_t least) {
        constexpr std::int64_t kFewTasks = 64;
        tile_rows = most;
        while (tile_rows > least &&
               problem.maps() * (round_up(problem.q_len, tile_rows) / tile_rows) < kFewTasks)
            tile_rows /= 2;
        block_rows = problem.masked ? problem.block_q : tile_rows;
        tile_rows = smaller(tile_rows, block_rows);
        tiles_per_block = (block_rows + tile_rows - 1) / tile_rows;
        tiles = (problem.q_len + block_rows - 1) / block_rows * tiles_per_block;
    }

    /// Queries first..last-1 of query block `block`; none where the block has fewer tasks than others.
    struct Rows {
        std::int64_t block, first, last;
    };
    Rows rows_of(std::int64_t task, std::int64_t q_len) const {
        const std::int64_t block = task % tiles / tiles_per_block;
        const std::int64_t begin = block * block_rows;
        const std::int64_t first = begin + task % tiles_per_block * tile_rows;
        return {block, first, smaller(smaller(first + tile_rows, begin + block_rows), q_len)};
    }
};

/// Some neighbouring maps of k and v, packed one behind the other, and the maps of q that meet them.
struct KeyMaps {
    std::int64_t first, count;
};
struct QueryTask {
    std::int64_t map;     ///< of q
    std::int64_t packed;  ///< its map of k and v, counted from KeyMaps::first
};
inline QueryTask query_task(const AttentionProblem& problem, const KeyMaps& keys, std::int64_t local) {
    return {keys.first * problem.group() + local, local / problem.group()};
}

/// Sizes of one call. Maps of k and v (batch x head) are packed in groups that fit the cache and keep all
/// threads busy, and computed with all maps of q that meet them.
struct AttentionTiling : QueryTiles {
    std::int64_t group;               ///< maps of k and v per group
    std::int64_t k_padded, d_padded;  ///< whole panels of keys; whole vectors of head_dim
    std::int64_t k_floats, v_floats;  ///< packed floats per map
    std::int64_t keys;                ///< of a map, with centroids behind the panels of the others
    std::int64_t worker_floats;       ///< scratch floats per thread
};

inline AttentionTiling tile_attention(const AttentionProblem& problem, std::int64_t lanes) {
    constexpr std::int64_t kGroupFloats = std::int64_t{8} << 20;
    AttentionTiling tiling;
    tiling.k_padded = round_up(problem.k_len, kPanel);
    tiling.d_padded = round_up(problem.head_dim, lanes);
    const std::int64_t centroids = problem.centroids ? problem.k_blocks() : 0;
    tiling.keys = problem.centroids ? tiling.k_padded + centroids : problem.k_len;
    tiling.k_floats = round_up(tiling.keys, kPanel) * problem.head_dim;
    tiling.v_floats = round_up(tiling.keys * tiling.d_padded, kPanel);
    tiling.group = kGroupFloats / (tiling.k_floats + tiling.v_floats + 1);
    tiling.group = tiling.group < 1 ? 1 : smaller(tiling.group, problem.kv_maps());
    tiling.cut_queries(problem, kMaxTileRows, 32);
    // q, o, scores, and per row: sums in every lane, largest score, rescaling factor; bias of centroids.
    tiling.worker_floats =
        kMaxTileRows * (round_up(problem.head_dim, kPanel) + tiling.d_padded + kTileKeys + kPanel + 2) +
        round_up(centroids, kPanel);
    return tiling;
}

}  // namespace
}  // namespace aerogel
