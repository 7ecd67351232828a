// Which blocks of attention are computed, decided on the device: every float operation in the order of
// kernels/planning.h (nothing is contracted), so the masks are those of the CPU. The best scores of a row are
// found by the bits of the threshold, from the top: 32 counts instead of a sort, and equal scores need no
// rule.
#pragma once

#include <cmath>

#include "kernels/cuda/planning_args.h"
#include "kernels/cuda/primitives/gpu.h"

namespace aerogel::cuda {

__device__ __forceinline__ std::int64_t planning_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int planning_lane() {
    return static_cast<int>(threadIdx.x % 32);
}

template <DType kType>
__device__ __forceinline__ float planning_value(const void* data, std::int64_t i) {
    if constexpr (kType == DType::f32) return static_cast<const float*>(data)[i];
    const std::uint32_t bits = static_cast<const std::uint16_t*>(data)[i];
    if constexpr (kType == DType::bf16) return gpu::float_of_bf16(bits);
    return gpu::float_of_f16(bits);
}

/// A block per cell of a map, a thread per channel.
template <DType kType>
__device__ __forceinline__ void cell_means(const CellMeansArgs& a) {
    const std::int64_t task = blockIdx.x, map = task / a.count, cell = task % a.count;
    const PlanningRows& rows = a.rows;
    const std::int64_t place = rows.first_map + map;
    const std::int64_t base = place / rows.heads * rows.batch + place % rows.heads * rows.head;
    const IndexRange range = a.cells[cell];
    for (std::int64_t d = threadIdx.x; d < rows.head_dim; d += blockDim.x) {
        float sum = 0.0F;
#pragma unroll 8
        for (std::int32_t row = range.begin; row < range.end; ++row) {
            const std::int64_t token = rows.order == nullptr ? row : rows.order[row];
            sum = __fadd_rn(sum, planning_value<kType>(rows.data, base + token * rows.token + d));
        }
        std::int64_t to = task * rows.head_dim + d;
        if (a.panels)
            to = (map * in_panels(a.count) + cell / kKeyPanel * kKeyPanel) * rows.head_dim + d * kKeyPanel +
                 cell % kKeyPanel;
        a.means[to] = __fdiv_rn(sum, static_cast<float>(range.end - range.begin));
    }
}

/// A block has kProductRows queries of a map and some panels of keys, a warp a panel, a thread a key.
__device__ __forceinline__ void mean_products(const MeanProductsArgs& a) {
    const std::int64_t padded = in_panels(a.keys), panels = padded / kKeyPanel;
    const std::int64_t column_tiles = (panels + kProductWarps - 1) / kProductWarps,
                       row_tiles = (a.rows + kProductRows - 1) / kProductRows;
    const std::int64_t tile = blockIdx.x, panel = tile % column_tiles * kProductWarps + threadIdx.x / 32;
    const std::int64_t first = tile / column_tiles % row_tiles * kProductRows,
                       map = tile / column_tiles / row_tiles;
    const int dim = static_cast<int>(a.head_dim);
    const int rows = static_cast<int>(a.rows - first < kProductRows ? a.rows - first : kProductRows);
    auto* const queries = reinterpret_cast<float*>(gpu::shared());
    for (int i = static_cast<int>(threadIdx.x); i < kProductRows * dim; i += static_cast<int>(blockDim.x))
        queries[i] = i < rows * dim ? a.q[(map * a.rows + first) * dim + i] : 0.0F;
    __syncthreads();
    if (panel >= panels) return;
    const float* keys = a.k + (map / a.group * padded + panel * kKeyPanel) * dim + planning_lane();
    float sums[kProductRows] = {};
#pragma unroll 4
    for (int d = 0; d < dim; ++d) {
        const float key = keys[static_cast<std::int64_t>(d) * kKeyPanel];
#pragma unroll
        for (int r = 0; r < kProductRows; ++r)
            sums[r] = __fadd_rn(sums[r], __fmul_rn(queries[r * dim + d], key));
    }
#pragma unroll
    for (int r = 0; r < kProductRows; ++r)
        if (r < rows)
            a.scores[(map * a.rows + first + r) * padded + panel * kKeyPanel + planning_lane()] = sums[r];
}

/// Orders numbers as floats do, with -0 as 0.
__device__ __forceinline__ std::uint32_t rank_of(float x) {
    const std::uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0F));
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

__device__ __forceinline__ int sum_over_warp(int x) {
    for (int distance = 16; distance > 0; distance /= 2) x += gpu::shfl_xor(x, distance);
    return x;
}

/// The rank-th largest of a row's scores, as rank_of() orders them: its bits one after the other, each 1
/// where enough scores are left at or above.
__device__ __forceinline__ std::uint32_t smallest_kept(const float* scores, const KeepBestArgs& a) {
    std::uint32_t found = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const std::uint32_t tried = found | 1U << bit;
        int above = 0;
        for (std::int64_t c = planning_lane(); c < a.columns; c += 32)
            above += rank_of(scores[c]) >= tried ? 1 : 0;
        if (sum_over_warp(above) >= a.rank) found = tried;
    }
    return found;
}

/// A warp per row.
__device__ __forceinline__ void keep_best(const KeepBestArgs& a) {
    const std::int64_t row = planning_thread() / 32;
    if (row >= a.maps * a.rows) return;
    const float* scores = a.scores + row * in_panels(a.columns);
    std::uint8_t* const grid = a.grid + row * a.columns;
    bool whole = a.q_kept[row % a.rows] != 0;
    if (!whole) {
        bool nan = false;
        for (std::int64_t c = planning_lane(); c < a.columns; c += 32) nan = nan || scores[c] != scores[c];
        whole = gpu::ballot(nan) != 0;
    }
    const std::uint32_t least = whole ? 0 : smallest_kept(scores, a);
    for (std::int64_t c = planning_lane(); c < a.columns; c += 32)
        grid[c] = whole || a.k_kept[c] != 0 || rank_of(scores[c]) >= least ? 1 : 0;
}

/// A thread per cell.
__device__ __forceinline__ void place_cells(const PlaceCellsArgs& a) {
    const std::int64_t cell = planning_thread();
    if (cell >= a.maps * a.rows * a.columns) return;
    const std::int64_t map = cell / a.columns / a.rows;
    const IndexRange rows = a.part(a.q_parts, cell / a.columns % a.rows),
                     columns = a.part(a.k_parts, cell % a.columns);
    const std::uint8_t* const from = a.from + a.grid_of(map) * a.from_rows * a.from_columns;
    bool kept = false;
    for (std::int32_t row = rows.begin; row < rows.end && !kept; ++row)
        for (std::int32_t c = columns.begin; c < columns.end && !kept; ++c)
            kept = from[row * a.from_columns + c] != 0;
    a.grid[cell] = kept ? 1 : 0;
}

/// A warp per list.
__device__ __forceinline__ void block_lists(const BlockListsArgs& a) {
    const std::int64_t list = planning_thread() / 32;
    if (list >= a.maps * a.q_blocks) return;
    const IndexRange rows = a.q_reach[list % a.q_blocks];
    const std::uint8_t* const grid = a.grid + list / a.q_blocks * a.rows * a.columns_of_grid;
    const std::int64_t start = list * a.k_blocks;
    std::int64_t end = start;
    for (std::int64_t first = 0; first < a.k_blocks; first += 32) {
        const std::int64_t block = first + planning_lane();
        bool kept = false;
        if (block < a.k_blocks) {
            const IndexRange columns = a.k_reach[block];
            for (std::int32_t row = rows.begin; row < rows.end && !kept; ++row)
                for (std::int32_t c = columns.begin; c < columns.end && !kept; ++c)
                    kept = grid[row * a.columns_of_grid + c] != 0;
        }
        const std::uint32_t found = gpu::ballot(kept);
        if (kept)
            a.columns[end + __popc(found & ((1U << planning_lane()) - 1))] = static_cast<std::int32_t>(block);
        end += __popc(found);
    }
    if (planning_lane() == 0) {
        a.row_start[list] = start;
        a.row_end[list] = end;
    }
}

/// As exp_negative() of kernels/softmax_numerators.cpp, operation by operation.
__device__ __forceinline__ float exp_negative(float x) {
    const int bits = __float_as_int(x), least = __float_as_int(-87.0F);
    const float clamped = __int_as_float(bits < least ? bits : least);
    const float shifted = __fadd_rn(__fmul_rn(clamped, 1.44269504F), 12582912.0F);
    const float power = __fsub_rn(shifted, 12582912.0F);
    const float rest =
        __fadd_rn(__fsub_rn(clamped, __fmul_rn(power, 0.693359375F)), __fmul_rn(power, 2.12194440e-4F));
    float series = 1.3888889e-3F;
    series = __fadd_rn(__fmul_rn(series, rest), 8.3333333e-3F);
    series = __fadd_rn(__fmul_rn(series, rest), 4.1666667e-2F);
    series = __fadd_rn(__fmul_rn(series, rest), 1.6666667e-1F);
    series = __fadd_rn(__fmul_rn(series, rest), 0.5F);
    series = __fadd_rn(__fmul_rn(series, rest), 1.0F);
    series = __fadd_rn(__fmul_rn(series, rest), 1.0F);
    const std::uint32_t exponent = (__float_as_uint(shifted) - __float_as_uint(12582912.0F)) << 23;
    return __uint_as_float(__float_as_uint(series) + exponent);
}

/// Whether a warp's numbers are finite, and the largest of them.
__device__ __forceinline__ bool largest_finite(const float* x, std::int64_t count, float& largest) {
    largest = -INFINITY;
    bool finite = true;
    for (std::int64_t i = planning_lane(); i < count; i += 32) {
        finite = finite && fabsf(x[i]) < INFINITY;
        largest = fmaxf(largest, x[i]);
    }
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, gpu::shfl_xor(largest, distance));
    return gpu::ballot(!finite) == 0;
}

/// The 16 sums of one half of a warp, added up in the order of the lanes.
__device__ __forceinline__ float sum_of_lanes(float lane_sum) {
    float sum = 0.0F;
    for (int lane = 0; lane < 16; ++lane)
        sum = __fadd_rn(sum, gpu::shfl(lane_sum, (planning_lane() & 16) + lane));
    return sum;
}

/// A warp per sampled query. Its halves sum the weights, and those under one mask after the other: lane l of
/// a half has numbers l, l + 16 ..., which is the order of the sums.
__device__ __forceinline__ void sample_shares(const SampleRecallsArgs& a) {
    const std::int64_t row = planning_thread() / 32, padded = in_panels(a.keys);
    if (row >= a.maps * a.queries) return;
    float* const weights = a.scores + row * padded;
    float largest = 0.0F;
    const bool finite = largest_finite(weights, a.keys, largest);
    for (std::int64_t i = planning_lane(); i < padded; i += 32)
        weights[i] =
            exp_negative(__fmul_rn(__fsub_rn(largest, i < a.keys ? weights[i] : -INFINITY), -a.scale));
    __syncwarp();
    const int half = planning_lane() / 16;
    float sums[2] =
        {};  // of the first half: all weights and the second mask; of the other: the first and third
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
        const std::int64_t type = turn * 2 + half - 1;
        const std::uint8_t* mask = nullptr;
        if (type >= 0 && type < a.types) mask = a.masks + (type * a.queries + row % a.queries) * padded;
        float sum = 0.0F;
        for (std::int64_t i = planning_lane() % 16; i < padded; i += 16)
            sum = __fadd_rn(
                sum, mask == nullptr ? weights[i] : __fmul_rn(weights[i], static_cast<float>(mask[i])));
        sums[turn] = sum_of_lanes(sum);
    }
    const float total = gpu::shfl(sums[0], 0);
    if (planning_lane() % 16 != 0) return;
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
        const std::int64_t type = turn * 2 + half - 1;
        if (type >= 0 && type < a.types)
            a.shares[row * a.types + type] = finite ? __fdiv_rn(sums[turn], total) : NAN;
    }
}

/// A thread per map.
__device__ __forceinline__ void choose_types(const SampleRecallsArgs& a) {
    const std::int64_t map = planning_thread();
    if (map >= a.maps) return;
    double best = 0.0;
    std::int32_t choice = 0;
    for (std::int64_t type = 0; type < a.types; ++type) {
        double recall = 0.0;
        for (std::int64_t query = 0; query < a.queries; ++query)
            recall += static_cast<double>(a.shares[(map * a.queries + query) * a.types + type]);
        recall /= static_cast<double>(a.queries);
        a.recalls[map * a.types + type] = recall;
        if (type != 0 && !(recall > best)) continue;
        best = recall;
        choice = static_cast<std::int32_t>(type);
    }
    a.choice[map] = best >= a.min_recall ? choice : static_cast<std::int32_t>(a.types);
}

/// The sets of masks that keep a key, and what they add up to in one channel.
struct SampleSums {
    static constexpr int kSets = 1 << kMostSampledTypes;
    float weights[kSets] = {}, values[kSets] = {};

    /// Of the sets that contain one mask, or of all (`type` negative).
    __device__ __forceinline__ static float joined(const float* sums, int type) {
        float sum = 0.0F;
#pragma unroll
        for (int set = 0; set < kSets; ++set)
            if (type < 0 || (set >> type & 1) != 0) sum = __fadd_rn(sum, sums[set]);
        return sum;
    }
};

__device__ __forceinline__ SampleSums sample_sums(const SampleErrorsArgs& a, std::int64_t row,
                                                  std::int64_t channel) {
    SampleSums sums;
    const std::int64_t padded = in_panels(a.keys);
    const float* const weights = a.weights + row * padded;
    const float* value = a.values + row / a.queries / a.group * a.keys * a.head_dim + channel;
    const std::uint8_t* const masks = a.masks + row % a.queries * padded;
    for (std::int64_t key = 0; key < a.keys; ++key, value += a.head_dim) {
        int found = 0;
        for (int type = 0; type < static_cast<int>(a.types); ++type)
            found |= masks[type * a.queries * padded + key] << type;
        const float product = __fmul_rn(weights[key], *value);
#pragma unroll
        for (int set = 0; set < SampleSums::kSets; ++set) {
            if (set != found) continue;
            sums.weights[set] = __fadd_rn(sums.weights[set], weights[key]);
            sums.values[set] = __fadd_rn(sums.values[set], product);
        }
    }
    return sums;
}

/// A block per sampled query, a thread per channel; then a thread per mask adds the channels up.
__device__ __forceinline__ void sample_errors(const SampleErrorsArgs& a) {
    const std::int64_t row = blockIdx.x, channel = threadIdx.x;
    auto* const squares = reinterpret_cast<double*>(gpu::shared());  // [types, head_dim]
    if (channel < a.head_dim) {
        const SampleSums sums = sample_sums(a, row, channel);
        const float all =
            __fdiv_rn(SampleSums::joined(sums.values, -1), SampleSums::joined(sums.weights, -1));
#pragma unroll
        for (int type = 0; type < static_cast<int>(kMostSampledTypes); ++type) {
            if (type >= a.types) break;
            const float kept = SampleSums::joined(sums.weights, type);
            const float own = kept > 0.0F ? __fdiv_rn(SampleSums::joined(sums.values, type), kept) : 0.0F;
            const auto off = static_cast<double>(__fsub_rn(own, all));
            squares[type * a.head_dim + channel] = __dmul_rn(off, off);
        }
    }
    __syncthreads();
    if (channel >= a.types) return;
    double error = 0.0;
    for (std::int64_t d = 0; d < a.head_dim; ++d) error = __dadd_rn(error, squares[channel * a.head_dim + d]);
    a.errors[row * a.types + channel] = error;
}

/// A thread per map.
__device__ __forceinline__ void choose_by_error(const SampleErrorsArgs& a) {
    const std::int64_t map = planning_thread();
    if (map >= a.maps || a.recalls[map * a.types] != a.recalls[map * a.types]) return;
    double least = INFINITY;
    std::int64_t best = 0;
    for (std::int64_t type = 0; type < a.types; ++type) {
        double error = 0.0;
        for (std::int64_t query = 0; query < a.queries; ++query)
            error += a.errors[(map * a.queries + query) * a.types + type];
        if (!(error < INFINITY)) return;
        if (!(error < least)) continue;
        least = error;
        best = type;
    }
    a.choice[map] =
        static_cast<std::int32_t>(a.recalls[map * a.types + best] >= a.min_recall ? best : a.types);
}

/// A thread per list, the first of a map for its orders too.
__device__ __forceinline__ void fan_out(const FanOutArgs& a) {
    const std::int64_t list = planning_thread();
    if (list >= a.maps * a.q_blocks) return;
    const std::int64_t map = list / a.q_blocks, block = list % a.q_blocks;
    const std::int64_t type = a.choice == nullptr ? 0 : a.choice[map];
    if (a.q_orders != nullptr && block == 0) {
        a.q_order[map] = a.q_orders + type * a.q_len;
        a.k_order[map] = a.k_orders + type * a.k_len;
    }
    if (a.type_start == nullptr) return;
    a.row_start[list] = a.type_start[type * a.q_blocks + block];
    a.row_end[list] = a.type_end[type * a.q_blocks + block];
}

/// A warp per map.
__device__ __forceinline__ void kept_scores(const KeptScoresArgs& a) {
    const std::int64_t map = planning_thread() / 32;
    if (map >= a.maps) return;
    std::int64_t kept = 0;
    for (std::int64_t block = planning_lane(); block < a.q_blocks; block += 32) {
        const std::int64_t begin = a.row_start[map * a.q_blocks + block],
                           end = a.row_end[map * a.q_blocks + block];
        std::int64_t keys = (end - begin) * a.block_k;
        if (end > begin && a.columns[end - 1] == a.k_blocks - 1) keys -= a.k_blocks * a.block_k - a.k_len;
        const std::int64_t left = a.q_len - block * a.block_q;
        kept += keys * (left < a.block_q ? left : a.block_q);
    }
    for (int distance = 16; distance > 0; distance /= 2) kept += gpu::shfl_xor(kept, distance);
    if (planning_lane() == 0) a.kept[map] = kept;
}

}  // namespace aerogel::cuda
