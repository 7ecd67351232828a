// What the AVX2 and AVX-512 attention kernels share apart from arithmetic: how queries are cut into tiles,
// which keys a tile meets and in what portions, and where everything lies in the workspace.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace aerogel {
namespace {

constexpr std::int64_t kPanel = 16;         ///< keys per packed panel of k
constexpr std::int64_t kMaxTileRows = 128;  ///< query rows per task
constexpr std::int64_t kTileKeys = 256;     ///< columns of the score tile
constexpr std::int64_t kPackKeys = 256;     ///< keys per packing task

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
/// whole panels: the score of key `k` stands in column + k - round_down(first, kPanel).
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
    const std::int32_t* column = nullptr;  ///< next kept block
    const std::int32_t* end = nullptr;
    std::int64_t block_k = 0;
    std::int64_t k_len = 0;
    std::int64_t first = 0;  ///< the rest of the current run
    std::int64_t last = 0;

    bool next_run() {
        if (column == end) return false;
        first = *column * block_k;
        last = smaller(first + block_k, k_len);
        for (++column; column != end && *column * block_k == last; ++column)
            last = smaller(last + block_k, k_len);
        return true;
    }

    /// Fills `tile`; false when no key is left.
    bool next(KeyTile& tile) {
        tile.count = 0;
        tile.columns = 0;
        while (tile.columns < kTileKeys) {
            if (first == last && !next_run()) break;
            const std::int64_t start = round_down(first, kPanel);
            const std::int64_t stop = smaller(last, start + kTileKeys - tile.columns);
            tile.segments[tile.count++] = {first, stop, tile.columns};
            tile.columns += round_up(stop, kPanel) - start;
            first = stop;
        }
        return tile.count != 0;
    }
};

/// Sizes of one call. Maps (batch x head) are packed and computed in groups that fit the cache and keep
/// all threads busy; a group's packed keys and values lie one map behind the other.
struct AttentionPlan {
    std::int64_t maps, group;             ///< all maps; maps per group
    std::int64_t k_padded, d_padded;      ///< whole panels of keys; whole vectors of head_dim
    std::int64_t k_floats, v_floats;      ///< packed floats per map
    std::int64_t tile_rows, block_rows;   ///< rows per task and per query block (dense: equal)
    std::int64_t tiles_per_block, tiles;  ///< tasks per query block and per map
    std::int64_t worker_floats;           ///< scratch floats per thread
};

inline AttentionPlan plan_attention(const AttentionProblem& problem, std::int64_t lanes) {
    constexpr std::int64_t kGroupFloats = std::int64_t{8} << 20;
    constexpr std::int64_t kFewTasks = 64;
    AttentionPlan plan;
    plan.maps = problem.batch * problem.heads;
    plan.k_padded = round_up(problem.k_len, kPanel);
    plan.d_padded = round_up(problem.head_dim, lanes);
    plan.k_floats = round_up(plan.k_padded * problem.head_dim, kPanel);
    plan.v_floats = round_up(problem.k_len * plan.d_padded, kPanel);
    plan.group = kGroupFloats / (plan.k_floats + plan.v_floats + 1);
    plan.group = plan.group < 1 ? 1 : smaller(plan.group, plan.maps);
    plan.tile_rows = kMaxTileRows;
    while (plan.tile_rows > 32 &&
           plan.maps * round_up(problem.q_len, plan.tile_rows) / plan.tile_rows < kFewTasks)
        plan.tile_rows /= 2;
    plan.block_rows = problem.masked ? problem.block_q : plan.tile_rows;
    plan.tile_rows = smaller(plan.tile_rows, plan.block_rows);
    plan.tiles_per_block = (plan.block_rows + plan.tile_rows - 1) / plan.tile_rows;
    plan.tiles = (problem.q_len + plan.block_rows - 1) / plan.block_rows * plan.tiles_per_block;
    // q, o, scores, and per row: sums in every lane, largest score, rescaling factor.
    plan.worker_floats =
        kMaxTileRows * (round_up(problem.head_dim, kPanel) + plan.d_padded + kTileKeys + kPanel + 2);
    return plan;
}

}  // namespace
}  // namespace aerogel
