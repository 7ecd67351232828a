// What the attention kernels share apart from arithmetic: which queries a block of threads has, which keys
// they meet and in what portions, and how rows come into shared memory.
#pragma once

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/primitives/gpu.h"

namespace aerogel::cuda {

/// The token that is row `row` of a map.
__device__ __forceinline__ std::int64_t token_of(const AttentionRows& rows, std::int64_t map,
                                                 std::int64_t row) {
    return rows.order == nullptr ? row : rows.order[map + rows.first_map][row];
}

/// First element of a row.
__device__ __forceinline__ std::int64_t row_at(const AttentionRows& rows, std::int64_t map,
                                               std::int64_t row) {
    const std::int64_t token = token_of(rows, map, row);
    map += rows.first_map;
    return map / rows.heads * rows.batch + map % rows.heads / rows.shared * rows.head + token * rows.token;
}

/// The rows of one map.
struct MapRows {
    const unsigned char* data;
    const std::int32_t* order;
    std::int64_t token_bytes;

    MapRows() = default;
    __device__ MapRows(const AttentionRows& rows, std::int64_t map, int element_bytes) {
        map += rows.first_map;
        order = rows.order == nullptr ? nullptr : rows.order[map];
        token_bytes = rows.token * element_bytes;
        data = static_cast<const unsigned char*>(rows.data) +
               (map / rows.heads * rows.batch + map % rows.heads / rows.shared * rows.head) * element_bytes;
    }
    __device__ __forceinline__ const unsigned char* at(int token) const {
        return data + static_cast<std::int64_t>(order == nullptr ? token : order[token]) * token_bytes;
    }
};

/// Queries first .. last-1 of a map: what a block of threads computes.
struct QueryTile {
    std::int64_t map, mask_row;
    int first, last;

    QueryTile() = default;
    /// The last tiles of a map first: with causal masks those are the longest.
    __device__ QueryTile(const AttentionTiles& tiles, int rows) {
        const std::int64_t of_map = tiles.q_blocks * tiles.tiles_of_block;
        const std::int64_t tile = of_map - 1 - static_cast<std::int64_t>(blockIdx.x) % of_map;
        map = static_cast<std::int64_t>(blockIdx.x) / of_map;
        const std::int64_t block = tile / tiles.tiles_of_block;
        mask_row = map * tiles.q_blocks + block;
        const std::int64_t end = (block + 1) * tiles.block_q;
        first = static_cast<int>(block * tiles.block_q + tile % tiles.tiles_of_block * rows);
        last = static_cast<int>(end < tiles.q_len ? end : tiles.q_len);
        if (last > first + rows) last = first + rows;
    }
};

/// Keys first .. first + (keys of a portion) - 1, of which those with a bit are kept.
struct KeyTile {
    int first;
    std::uint64_t kept;
};

/// Walks the keys that a row of the mask keeps, in portions that begin at multiples of kKeys. Neighbouring
/// blocks are one run, so a full mask gives the very portions of dense attention.
template <int kKeys>
struct KeyWalk {
    static_assert(kKeys <= 64);
    static constexpr std::uint64_t kAll = kKeys == 64 ? ~0ULL : (1ULL << (kKeys % 64)) - 1;

    const std::int32_t* column;
    const std::int32_t* end;
    const std::uint64_t* seen;  ///< of the item, as AttentionTiles
    int block_k, limit;
    int first, last;  ///< the rest of the run

    KeyWalk() = default;
    /// Keys before `behind` only.
    __device__ KeyWalk(const AttentionTiles& tiles, std::int64_t mask_row, std::int64_t behind)
        : column(nullptr),
          end(nullptr),
          seen(tiles.seen),
          block_k(static_cast<int>(tiles.block_k)),
          limit(static_cast<int>(behind)),
          first(0),
          last(0) {
        if (tiles.row_start != nullptr) {
            column = tiles.columns + tiles.row_start[mask_row];
            end = tiles.columns + tiles.row_end[mask_row];
        } else {
            last = limit > 0 ? limit : 0;
        }
        if (seen != nullptr)
            seen += (mask_row / tiles.q_blocks + tiles.first_map) / tiles.heads * tiles.seen_words;
    }

    __device__ __forceinline__ bool next_run() {
        if (column == end) return false;
        const std::int64_t begin = static_cast<std::int64_t>(*column) * block_k;
        if (begin >= limit) return false;
        first = static_cast<int>(begin);
        std::int64_t stop = begin + block_k;
        for (++column; column != end && static_cast<std::int64_t>(*column) * block_k == stop; ++column)
            stop += block_k;
        last = stop < limit ? static_cast<int>(stop) : limit;
        return true;
    }

    static __device__ __forceinline__ std::uint64_t bits_below(int count) {
        return count >= kKeys ? kAll : (1ULL << count) - 1;
    }

    __device__ __forceinline__ bool next(KeyTile& tile) {
        do {
            if (first >= last && !next_run()) return false;
            tile.first = first / kKeys * kKeys;
            tile.kept = 0;
            do {
                const int stop = last - tile.first < kKeys ? last - tile.first : kKeys;
                tile.kept |= bits_below(stop) & ~bits_below(first - tile.first);
                first = tile.first + stop;
            } while (first >= last && next_run() && first < tile.first + kKeys);
            if (seen != nullptr) tile.kept &= seen[tile.first / 64] >> (tile.first % 64);
        } while (tile.kept == 0);
        return true;
    }
};

/// Keys and values take turns in three places of shared memory: those of portion 0 take places 0 and 1, of
/// portion 1 places 2 and 0, of portion 2 places 1 and 2, always the one whose content was used before the
/// last barrier.
template <class Kernel>
struct Ring {
    static __device__ __forceinline__ int keys_at(int now) {
        return Kernel::kRing + (now == 0 ? 0 : 3 - now) * Kernel::kPlaceBytes;
    }
    static __device__ __forceinline__ int values_at(int now) {
        return Kernel::kRing + (now == 2 ? 2 : 1 - now) * Kernel::kPlaceBytes;
    }
    static __device__ __forceinline__ int after(int now) { return now == 2 ? 0 : now + 1; }
};

/// All portions of a plan, each fetched a portion ahead; the first is on its way, keys before values.
/// weigh(weights, portion, place) makes weights of the keys there, add(weights, place) adds the values.
template <class Ring, class Weights, class Plan, class FetchKeys, class FetchValues, class Weigh, class Add>
__device__ __forceinline__ void go_round(Plan& plan, const FetchKeys& fetch_keys,
                                         const FetchValues& fetch_values, const Weigh& weigh,
                                         const Add& add) {
    for (int now = 0; plan.portions[now].kept != 0; now = Ring::after(now)) {
        const int next = Ring::after(now);
        gpu::cp_async_wait<1>();  // the keys are here, the values may be on their way
        __syncthreads();
        fetch_keys(Ring::keys_at(next), plan.portions[next]);
        gpu::cp_async_commit();
        if (threadIdx.x == 0) plan.step(Ring::after(next));
        Weights weights;
        weigh(weights, plan.portions[now], Ring::keys_at(now));
        gpu::cp_async_wait<1>();  // the values are here
        __syncthreads();
        fetch_values(Ring::values_at(next), plan.portions[next]);
        gpu::cp_async_commit();
        add(weights, Ring::values_at(now));
    }
    gpu::cp_async_wait<0>();  // of queries that see no key
}

}  // namespace aerogel::cuda
