// Scores of strided attention (ada_bsa) by tensor cores, their shares by block, and the fewest blocks that
// reach a part of a row. The products are in the order of the tensor cores; all that follows is in the order
// of kernels/planning.h, so equal scores make equal masks.
#pragma once

#include "kernels/cuda/planning.cuh"

namespace aerogel::cuda {

/// Two neighbours as the tensor cores take them: bf16 and f16 as they are, f32 as bf16 and what that lost.
template <DType kType>
struct StridedPair {
    static constexpr int kParts = kType == DType::f32 ? 2 : 1;
    std::uint32_t part[kParts];

    __device__ __forceinline__ StridedPair(const void* data, std::int64_t at, std::int64_t left) {
        if constexpr (kType == DType::f32) {
            const auto* x = static_cast<const float*>(data) + at;
            const float low = left > 0 ? x[0] : 0.0F, high = left > 1 ? x[1] : 0.0F;
            part[0] = gpu::pack_bf16(low, high);
            part[1] =
                gpu::pack_bf16(low - gpu::float_of_bf16(part[0]), high - gpu::float_of_bf16(part[0] >> 16));
        } else {
            const auto* x = static_cast<const std::uint16_t*>(data) + at;
            part[0] = (left > 0 ? x[0] : 0U) | (left > 1 ? static_cast<std::uint32_t>(x[1]) << 16 : 0U);
        }
    }
};

/// A tile in shared memory: kStridedTile rows of 64 channels, each part behind the one before.
__device__ __forceinline__ int strided_chunk(int row, int chunk) {
    return row * 128 + ((chunk ^ (row & 7)) << 4);
}
constexpr int kStridedTileBytes = kStridedTile * 128;

/// 64 channels of one token of each of the tile's rows: token 8 (first + row) + place.
template <DType kType>
__device__ __forceinline__ void fetch_strided(unsigned char* to, const PlanningRows& rows, std::int64_t map,
                                              std::int64_t first, int place, int channel) {
    const std::int64_t at = rows.first_map + map;
    const std::int64_t base = at / rows.heads * rows.batch + at % rows.heads * rows.head;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kStridedTile * 32; i += kStridedThreads) {
        const int row = i / 32, pair = i % 32;
        const std::int64_t token = (first + row) * kPlanningStride + place;
        const std::int64_t left = token < rows.tokens ? rows.head_dim - channel - pair * 2 : 0;
        const StridedPair<kType> x(rows.data, base + token * rows.token + channel + pair * 2, left);
#pragma unroll
        for (int part = 0; part < StridedPair<kType>::kParts; ++part)
            gpu::store(to + part * kStridedTileBytes + strided_chunk(row, pair / 4) + pair % 4 * 4,
                       x.part[part]);
    }
}

template <DType kType>
__device__ __forceinline__ void strided_mma(float (&c)[4], const std::uint32_t (&a)[4],
                                            const std::uint32_t* b) {
    if constexpr (kType == DType::f16)
        gpu::mma_f16(c, a, b);
    else
        gpu::mma_bf16(c, a, b);
}

/// sums += q k^T of what lies in shared memory: 16 rows of a warp, 64 keys, 64 channels.
template <DType kType>
__device__ __forceinline__ void add_strided(float (&sums)[8][4], const unsigned char* q,
                                            const unsigned char* k) {
    constexpr int kParts = StridedPair<kType>::kParts;
    const int lane = static_cast<int>(threadIdx.x % 32), row = static_cast<int>(threadIdx.x / 32) * 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        std::uint32_t a[kParts][4];
#pragma unroll
        for (int part = 0; part < kParts; ++part)
            gpu::ldmatrix_x4(
                a[part], q + part * kStridedTileBytes + strided_chunk(row + lane % 16, step * 2 + lane / 16));
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            std::uint32_t b[kParts][4];
#pragma unroll
            for (int part = 0; part < kParts; ++part)
                gpu::ldmatrix_x4(b[part], k + part * kStridedTileBytes +
                                              strided_chunk(pair * 16 + lane / 16 * 8 + lane % 8,
                                                            step * 2 + lane / 8 % 2));
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float(&c)[4] = sums[pair * 2 + half];
                if constexpr (kParts == 2) {
                    strided_mma<kType>(c, a[1], b[0] + half * 2);
                    strided_mma<kType>(c, a[0], b[1] + half * 2);
                }
                strided_mma<kType>(c, a[0], b[0] + half * 2);
            }
        }
    }
}

/// A block per kStridedTile x kStridedTile scores, a warp per 16 rows of them.
template <DType kType>
__device__ __forceinline__ void strided_products(const StridedProductsArgs& a) {
    const std::int64_t keys = strided(a.k.tokens), column_tiles = (keys + kStridedTile - 1) / kStridedTile,
                       row_tiles = (a.rows + kStridedTile - 1) / kStridedTile, tile = blockIdx.x;
    const std::int64_t first_key = tile % column_tiles * kStridedTile,
                       first_row = tile / column_tiles % row_tiles * kStridedTile,
                       map = tile / column_tiles / row_tiles;
    unsigned char* const q = gpu::shared();
    unsigned char* const k = q + kStridedTileBytes * StridedPair<kType>::kParts;
    float sums[8][4] = {};
#pragma unroll 1
    for (int place = 0; place < kPlanningStride; ++place)
#pragma unroll 1
        for (int channel = 0; channel < a.q.head_dim; channel += 64) {
            fetch_strided<kType>(q, a.q, map, a.first_row + first_row, kPlanningStride - 1 - place, channel);
            fetch_strided<kType>(k, a.k, map / a.group, first_key, place, channel);
            __syncthreads();
            add_strided<kType>(sums, q, k);
            __syncthreads();
        }
    const int lane = static_cast<int>(threadIdx.x % 32);
    const std::int64_t row = first_row + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const std::int64_t r = row + i % 4 / 2 * 8, key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (r < a.rows && key < keys) a.scores[(map * a.rows + r) * keys + key] = sums[i / 4][i % 4];
    }
}

/// A warp per strided row, a lane per block of keys.
__device__ __forceinline__ void strided_parts(const BlockSharesArgs& a) {
    const StridedBlocks& blocks = a.blocks;
    const std::int64_t at = planning_thread() / 32, k_blocks = blocks.k_blocks();
    if (at >= blocks.maps * blocks.rows()) return;
    const std::int64_t seen = blocks.seen(at % blocks.rows()), each = blocks.block / kPlanningStride;
    float* const scores = a.scores + at * strided(blocks.k_len);
    float largest = 0.0F;
    const bool finite = largest_finite(scores, seen, largest);
    for (std::int64_t i = planning_lane(); i < seen; i += 32)
        scores[i] = exp_negative(__fmul_rn(__fsub_rn(largest, scores[i]), -a.factor));
    __syncwarp();
    for (std::int64_t column = planning_lane(); column < k_blocks; column += 32) {
        double part = finite ? 0.0 : NAN;
        for (std::int64_t i = column * each; i < (column + 1) * each && i < seen; ++i)
            part += static_cast<double>(scores[i]);
        a.parts[at * k_blocks + column] = part;
    }
}

/// A warp per row of blocks. Lane l has the total of strided row l, then a column after the other.
__device__ __forceinline__ void join_parts(const BlockSharesArgs& a) {
    const StridedBlocks& blocks = a.blocks;
    const std::int64_t task = planning_thread() / 32, k_blocks = blocks.k_blocks(),
                       each = blocks.block / kPlanningStride;
    if (task >= blocks.maps * blocks.q_blocks) return;
    const std::int64_t map = task / blocks.q_blocks, first = task % blocks.q_blocks * each;
    const int rows = static_cast<int>(blocks.rows() - first < each ? blocks.rows() - first : each);
    const double* const parts = a.parts + (map * blocks.rows() + first) * k_blocks;
    double total = 0.0;
    if (planning_lane() < rows) {
        const std::int64_t seen = blocks.seen(first + planning_lane());
        for (std::int64_t column = 0; column * each < seen; ++column)
            total += parts[planning_lane() * k_blocks + column];
    }
    for (std::int64_t start = 0; start < k_blocks; start += 32) {
        const std::int64_t column = start + planning_lane();
        double sum = 0.0;
        for (int row = 0; row < rows; ++row) {
            const double of_row = gpu::shfl(total, row);
            // A row that sees no key has no share; where it is not finite, its total is NaN.
            if (column < k_blocks && of_row != 0.0) sum += parts[row * k_blocks + column] / of_row;
        }
        if (column < k_blocks) a.sums[task * k_blocks + column] = sum;
    }
}

/// Descending; what fills it up comes last.
__device__ __forceinline__ void sort_shares(double* x, std::int64_t size) {
    for (std::int64_t run = 2; run <= size; run *= 2)
        for (std::int64_t distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
#pragma unroll 1
            for (std::int64_t i = threadIdx.x; i < size / 2; i += blockDim.x) {
                const std::int64_t low = i / distance * 2 * distance + i % distance, high = low + distance;
                const bool ascending = (low & run) != 0;
                const double a = x[low], b = x[high];
                if ((a < b) != ascending && a != b) {
                    x[low] = b;
                    x[high] = a;
                }
            }
        }
    __syncthreads();
}

/// The smallest share among the fewest that reach the threshold, by one thread.
__device__ __forceinline__ double smallest_share(const KeepSharesArgs& a, const double* ranked) {
    const std::int64_t columns = a.blocks.k_blocks();
    double all = 0.0, reached = ranked[0];
#pragma unroll 4
    for (std::int64_t i = 0; i < columns; ++i) all += ranked[i];
    const double wanted = a.cdf_threshold * all;
    std::int64_t enough = 1;
#pragma unroll 1
    while (enough < columns && reached < wanted) reached += ranked[enough++];
    const auto most = static_cast<std::int64_t>((1.0 - a.sparsity) * static_cast<double>(columns));
    const std::int64_t kept = enough < most ? enough : most;
    return ranked[(kept > 1 ? kept : 1) - 1];
}

/// A block per row of blocks.
__device__ __forceinline__ void keep_shares(const KeepSharesArgs& a) {
    const StridedBlocks& blocks = a.blocks;
    const std::int64_t task = blockIdx.x, columns = blocks.k_blocks(),
                       all = (blocks.q_len + blocks.block - 1) / blocks.block;
    const std::int64_t row = blocks.first_block + task % blocks.q_blocks, size = ranked_size(columns);
    const std::int64_t end =
        (row + 1) * blocks.block < blocks.q_len ? (row + 1) * blocks.block : blocks.q_len;
    const std::int64_t last = blocks.last_seen(end - 1);
    const std::int64_t diagonal =
        last < 0 ? -1 : (last < blocks.k_len - 1 ? last : blocks.k_len - 1) / blocks.block;
    const double* const sums = a.sums + task * columns;
    double* const ranked = a.ranked + task * size;
    const auto share = [&](std::int64_t column) { return column == columns - 1 ? 0.0 : sums[column]; };
    for (std::int64_t i = threadIdx.x; i < size; i += blockDim.x) ranked[i] = i < columns ? share(i) : -1.0;
    sort_shares(ranked, size);
    auto* const threshold = reinterpret_cast<double*>(gpu::shared());
    if (threadIdx.x == 0) *threshold = smallest_share(a, ranked);
    __syncthreads();
    const bool full = a.q_kept[row] != 0 || (blocks.causal && row < 2) || sums[0] != sums[0];
    std::uint8_t* const grid = a.grid + (task / blocks.q_blocks * all + row) * columns;
    for (std::int64_t column = threadIdx.x; column < columns; column += blockDim.x) {
        bool kept = full || share(column) >= *threshold || a.k_kept[column] != 0;
        kept = (kept && column <= diagonal) || (a.keep_sink && column == 0 && diagonal >= 0) ||
               (a.keep_recent && column == diagonal);
        grid[column] = kept ? 1 : 0;
    }
}

}  // namespace aerogel::cuda
