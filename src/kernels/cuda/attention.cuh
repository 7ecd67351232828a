// Flash attention on the tensor cores of sm_80 and later: o = softmax(scale q k^T + bias) v, over all keys or
// those that a BlockMask keeps. A block of threads has 32 (or 16) queries per warp; keys and values come in
// portions through a ring of three places in shared memory, each fetched a whole portion ahead. Scores never
// leave the registers: what mma.sync gives is what it takes as the left side of p v. After FlashAttention and
// FlashAttention-2 (Dao et al. 2022, Dao 2023); the powers of two and the rescaling only where a maximum
// moved after FlashAttention-4 (2025). Operands in two halves after Ootomo and Yokota (2022).
#pragma once

#include "kernels/cuda/attention_tiles.cuh"

namespace aerogel::cuda {

constexpr float kLn2 = 0.693147181F;

/// Types that tensor cores multiply, by pairs.
struct Bf16 {
    static __device__ __forceinline__ void mma(float (&c)[4], const std::uint32_t (&a)[4],
                                               const std::uint32_t* b) {
        gpu::mma_bf16(c, a, b);
    }
    static __device__ __forceinline__ std::uint32_t pack(float low, float high) {
        return gpu::pack_bf16(low, high);
    }
};
struct F16 {
    static __device__ __forceinline__ void mma(float (&c)[4], const std::uint32_t (&a)[4],
                                               const std::uint32_t* b) {
        gpu::mma_f16(c, a, b);
    }
    static __device__ __forceinline__ std::uint32_t pack(float low, float high) {
        return gpu::pack_f16(low, high);
    }
};

/// What two numbers lost when they became a pair of bf16, as such a pair. Of what is not finite: NaN.
__device__ __forceinline__ std::uint32_t rest_of(std::uint32_t pair, float low, float high) {
    return gpu::pack_bf16(low - gpu::float_of_bf16(pair), high - gpu::float_of_bf16(pair >> 16));
}

/// One kernel: what it multiplies, and its sizes.
template <class T, FloatAttentionShape kSizes>
struct FloatShape {
    using Element = T;
    static constexpr int kWidth = kSizes.width, kQueryTiles = kSizes.query_tiles, kKeys = kSizes.keys;
    static constexpr int kParts = kSizes.parts, kRowBytes = kSizes.row_bytes(),
                         kWarpRows = kSizes.warp_rows();
    static constexpr int kPlaceBytes = kSizes.place_bytes(), kTops = kSizes.kTops, kRing = kSizes.kRing;
    static constexpr int kQueries = kSizes.queries();
    static constexpr int kChunks = kRowBytes / 16, kChannelTiles = kWidth / 8, kKeyTiles = kKeys / 8;
};

/// Where a chunk of 16 bytes lies: the eight rows that a matrix load reads at once are in different banks.
/// Chunk c of the row of chunk 0 is at place ^ c * 16, where c is even, so that one instruction finds it.
template <class Shape>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
    return row * Shape::kRowBytes + ((chunk ^ (row & 7)) << 4);
}

/// The address of the chunk that is bits / 16 chunks on (an even number), in a row whose chunk 0 or 1 is at
/// `p`.
__device__ __forceinline__ const unsigned char* flip(const unsigned char* p, int bits) {
    return reinterpret_cast<const unsigned char*>(reinterpret_cast<std::uintptr_t>(p) ^
                                                  static_cast<std::uintptr_t>(bits));
}

/// Rows on their way into shared memory. Those that are not kept become zeros: their weights are zero, and
/// 0 * NaN is not.
struct RowFetch {
    MapRows rows;
    int channels;  ///< of 16 bits, from the start of a row
    bool aligned;
};

/// What all threads of a block know, in shared memory: registers are for the sums. The first thread walks the
/// keys, two portions ahead.
template <int kKeys>
struct Plan {
    QueryTile tile;
    RowFetch keys, values;
    KeyWalk<kKeys> walk;
    KeyTile portions[3];  ///< no bit: no portion

    __device__ __forceinline__ void step(int to) {
        KeyTile portion;
        if (!walk.next(portion)) portion.kept = 0;
        portions[to] = portion;
    }
};

/// Row by row of 16 bits, where 16 bytes at once are not possible.
__device__ __forceinline__ void fetch_elements(unsigned char* to, const RowFetch& from,
                                               const unsigned char* row, int chunk) {
    std::uint32_t words[4] = {};
    const auto* x = reinterpret_cast<const std::uint16_t*>(row) + chunk * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (row != nullptr && chunk * 8 + i < from.channels)
            words[i / 2] |= static_cast<std::uint32_t>(x[i]) << (i % 2 * 16);
    gpu::store(to, make_uint4(words[0], words[1], words[2], words[3]));
}

/// `count` rows from token `first` on; keep(row) says which are there.
template <class Shape, class Keep>
__device__ __forceinline__ void fetch_rows(unsigned char* to, const RowFetch& from, int first, int count,
                                           const Keep& keep) {
    constexpr int kRowChunks = Shape::kChunks * Shape::kParts;
    const int chunks = count * kRowChunks, threads = static_cast<int>(blockDim.x);
    const auto place = [&](int i) {
        return to + i % kRowChunks / Shape::kChunks * count * Shape::kRowBytes +
               chunk_at<Shape>(i / kRowChunks, i % Shape::kChunks);
    };
    if (from.aligned) {
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < chunks; i += threads) {
            const int row = i / kRowChunks, chunk = i % kRowChunks;
            const bool kept = keep(row) && chunk * 8 < from.channels;
            gpu::cp_async16(place(i), kept ? from.rows.at(first + row) + chunk * 16 : from.rows.data, kept);
        }
    } else {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < chunks; i += threads) {
            const int row = i / kRowChunks;
            fetch_elements(place(i), from, keep(row) ? from.rows.at(first + row) : nullptr, i % kRowChunks);
        }
    }
}

/// What a thread keeps of its queries: rows lane/4 and lane/4 + 8 of every 16-query tile.
template <class Shape>
struct FloatRows {
    float o[Shape::kQueryTiles][Shape::kChannelTiles][4];
    float sum[Shape::kQueryTiles][2];  ///< of the weights that this thread has seen

    /// The largest score so far, times log2(e) scale: in shared memory, as registers are few, one for the
    /// four threads of a row.
    static __device__ __forceinline__ float& top(int t, int e) {
        return reinterpret_cast<float*>(
            gpu::shared() +
            Shape::kTops)[threadIdx.x / 32 * Shape::kWarpRows + t * 16 + e * 8 + threadIdx.x % 32 / 4];
    }

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int t = 0; t < Shape::kQueryTiles; ++t) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                sum[t][e] = 0.0F;
                if (threadIdx.x % 4 == 0) top(t, e) = -INFINITY;
            }
#pragma unroll
            for (int i = 0; i < Shape::kChannelTiles * 4; ++i) o[t][i / 4][i % 4] = 0.0F;
        }
    }
};

/// s = q k^T for the keys that lie from `k` on.
template <class Shape>
__device__ __forceinline__ void multiply_floats(float (&s)[Shape::kQueryTiles][Shape::kKeyTiles][4],
                                                int q_rows, int k) {
    using T = typename Shape::Element;
    constexpr int kTiles = Shape::kQueryTiles, kParts = Shape::kParts;
    const int lane = static_cast<int>(threadIdx.x % 32),
              row = static_cast<int>(threadIdx.x / 32) * Shape::kWarpRows;
    unsigned char* const shared = gpu::shared();
    const unsigned char* const q_at = shared + Shape::kQueries + chunk_at<Shape>(row + lane % 16, lane / 16);
    const unsigned char* const k_at = shared + k + chunk_at<Shape>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < kTiles * Shape::kKeyTiles * 4; ++i)
        s[i / 4 / Shape::kKeyTiles][i / 4 % Shape::kKeyTiles][i % 4] = 0.0F;
#pragma unroll
    for (int step = 0; step < Shape::kWidth / 16; ++step) {
        std::uint32_t a[kParts][kTiles][4];
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
                gpu::ldmatrix_x4(a[part][t],
                                 flip(q_at, step * 32) + (part * q_rows + t * 16) * Shape::kRowBytes);
#pragma unroll
        for (int pair = 0; pair < Shape::kKeyTiles / 2; ++pair) {
            std::uint32_t b[kParts][4];
#pragma unroll
            for (int part = 0; part < kParts; ++part)
                gpu::ldmatrix_x4(
                    b[part], flip(k_at, step * 32) + (part * Shape::kKeys + pair * 16) * Shape::kRowBytes);
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float(&c)[4] = s[t][pair * 2 + half];
                    if constexpr (kParts == 2) {
                        T::mma(c, a[1][t], b[0] + half * 2);
                        T::mma(c, a[0][t], b[1] + half * 2);
                    }
                    T::mma(c, a[0][t], b[0] + half * 2);
                }
        }
    }
}

/// Takes away what is not to be seen, and adds the bias.
template <class Shape>
__device__ __forceinline__ void edit_scores(float (&s)[Shape::kQueryTiles][Shape::kKeyTiles][4],
                                            const FloatAttentionArgs& a, const QueryTile& tile,
                                            const KeyTile& keys) {
    const int column = static_cast<int>(threadIdx.x % 4) * 2, behind = keys.first + column;
    int query = tile.first + static_cast<int>(threadIdx.x / 32) * Shape::kWarpRows +
                static_cast<int>(threadIdx.x % 32 / 4);
    const std::uint64_t kept = keys.kept >> column;
    const int shift = static_cast<int>(a.tiles.k_len - a.tiles.q_len);
#pragma unroll
    for (int i = 0; i < Shape::kQueryTiles * 2; ++i, query += 8) {
        const int seen = a.causal ? query + shift + 1 - behind : Shape::kKeys;
        const float* bias = nullptr;
        if (a.bias != nullptr && query < tile.last)
            bias = a.bias + (tile.map + a.o.first_map) % a.o.heads * (a.tiles.q_len + a.tiles.k_len - 1) +
                   a.tiles.q_len - 1 + behind - query;
#pragma unroll
        for (int j = 0; j < Shape::kKeyTiles; ++j)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float& x = s[i / 2][j][i % 2 * 2 + c];
                const bool is_kept = (kept >> (j * 8 + c) & 1) != 0 && j * 8 + c < seen;
                if (bias != nullptr && is_kept) x = __fmaf_rn(bias[j * 8 + c], a.inverse_scale, x);
                if (!is_kept) x = -INFINITY;
            }
    }
}

/// Weights as mma.sync takes them.
template <class Shape>
struct Weights {
    std::uint32_t p[Shape::kParts][Shape::kQueryTiles][Shape::kKeys / 16][4];

    /// Those of rows lane/4 + 8 e of 16-query tile t: two neighbours of key tile j.
    __device__ __forceinline__ void put(int t, int e, int j, float x, float y) {
        using T = typename Shape::Element;
        const std::uint32_t high = T::pack(x, y);
        p[0][t][j / 2][j % 2 * 2 + e] = high;
        if constexpr (Shape::kParts == 2) p[1][t][j / 2][j % 2 * 2 + e] = rest_of(high, x, y);
    }
};

/// The weights of s relative to the new largest scores; o and the sums follow those. factor_of(t, e): of the
/// scores of that row.
template <class Shape, class Factor>
__device__ __forceinline__ void take_powers(const float (&s)[Shape::kQueryTiles][Shape::kKeyTiles][4],
                                            FloatRows<Shape>& rows, Weights<Shape>& weights,
                                            const Factor& factor_of) {
#pragma unroll
    for (int t = 0; t < Shape::kQueryTiles; ++t)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float top = -INFINITY;
#pragma unroll
            for (int j = 0; j < Shape::kKeyTiles; ++j)
                top = fmaxf(top, fmaxf(s[t][j][e * 2], s[t][j][e * 2 + 1]));
            top = fmaxf(top, gpu::shfl_xor(top, 1));
            top = fmaxf(top, gpu::shfl_xor(top, 2));
            const float before = rows.top(t, e), factor = factor_of(t, e);
            top = fmaxf(before, top * factor);
            // A row that has seen no key yet: its weights are 2^-inf, not 2^(-inf + inf).
            const float base = top == -INFINITY ? 0.0F : top;
            __syncwarp();  // all four have read it
            if (threadIdx.x % 4 == 0) rows.top(t, e) = top;
            float sum = 0.0F;
#pragma unroll
            for (int j = 0; j < Shape::kKeyTiles; ++j) {
                const float x = gpu::exp2_fast(__fmaf_rn(s[t][j][e * 2], factor, -base));
                const float y = gpu::exp2_fast(__fmaf_rn(s[t][j][e * 2 + 1], factor, -base));
                sum += x;
                sum += y;
                weights.put(t, e, j, x, y);
            }
            const float fall = gpu::exp2_fast(before - base);
            rows.sum[t][e] = __fmaf_rn(rows.sum[t][e], fall, sum);
            if (gpu::ballot(fall != 1.0F) != 0) {
#pragma unroll
                for (int d = 0; d < Shape::kChannelTiles; ++d)
#pragma unroll
                    for (int c = 0; c < 2; ++c) rows.o[t][d][e * 2 + c] *= fall;
            }
        }
}

/// o += p v for the portion that lies from `v` on.
template <class Shape>
__device__ __forceinline__ void add_values(FloatRows<Shape>& rows, const Weights<Shape>& weights, int v) {
    using T = typename Shape::Element;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const unsigned char* const v_at = gpu::shared() + v + chunk_at<Shape>(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < Shape::kKeys / 16; ++step)
#pragma unroll
        for (int pair = 0; pair < Shape::kChannelTiles / 2; ++pair) {
            std::uint32_t b[Shape::kParts][4];
#pragma unroll
            for (int part = 0; part < Shape::kParts; ++part)
                gpu::ldmatrix_x4_trans(
                    b[part], flip(v_at, pair * 32) + (part * Shape::kKeys + step * 16) * Shape::kRowBytes);
#pragma unroll
            for (int t = 0; t < Shape::kQueryTiles; ++t)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float(&c)[4] = rows.o[t][pair * 2 + half];
                    if constexpr (Shape::kParts == 2) {
                        T::mma(c, weights.p[1][t][step], b[0] + half * 2);
                        T::mma(c, weights.p[0][t][step], b[1] + half * 2);
                    }
                    T::mma(c, weights.p[0][t][step], b[0] + half * 2);
                }
        }
}

/// Divides by the sums; rows without keys are zeros.
template <class Shape>
__device__ __forceinline__ void store_rows(const FloatRows<Shape>& rows, const FloatAttentionArgs& a,
                                           const QueryTile& tile) {
    using T = typename Shape::Element;
    const int lane = static_cast<int>(threadIdx.x % 32),
              row = static_cast<int>(threadIdx.x / 32) * Shape::kWarpRows;
#pragma unroll
    for (int t = 0; t < Shape::kQueryTiles; ++t)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float sum = rows.sum[t][e];
            sum += gpu::shfl_xor(sum, 1);
            sum += gpu::shfl_xor(sum, 2);
            const bool empty = sum == 0.0F;  // else at least the largest weight, which is 1
            const float inverse = empty ? 0.0F : 1.0F / sum;
            const int query = tile.first + row + t * 16 + lane / 4 + e * 8;
            if (query >= tile.last) continue;
            if (a.lse != nullptr && lane % 4 == 0)
                a.lse[tile.map * a.tiles.q_len + token_of(a.o, tile.map, query)] =
                    empty ? -INFINITY : rows.top(t, e) * kLn2 + logf(sum);
            unsigned char* to = static_cast<unsigned char*>(const_cast<void*>(a.o.data)) +
                                row_at(a.o, tile.map, query) * a.out_bytes;
#pragma unroll
            for (int d = 0; d < Shape::kChannelTiles; ++d) {
                const int channel = d * 8 + lane % 4 * 2;
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    if (channel + c >= a.head_dim) continue;
                    const float x = empty ? 0.0F : rows.o[t][d][e * 2 + c] * inverse;
                    if (a.out_bytes == 4)
                        reinterpret_cast<float*>(to)[channel + c] = x;
                    else
                        reinterpret_cast<std::uint16_t*>(to)[channel + c] =
                            static_cast<std::uint16_t>(T::pack(x, x) & 0xFFFF);
                }
            }
        }
}

/// By the first thread: what there is to do.
template <class Shape>
__device__ __forceinline__ void make_plan(Plan<Shape::kKeys>& plan, const FloatAttentionArgs& a,
                                          const QueryTile& tile) {
    const std::int64_t kv_map = tile.map / a.tiles.group, behind = tile.last + a.tiles.k_len - a.tiles.q_len;
    const int channels = Shape::kParts == 2 ? Shape::kWidth * 2 : a.head_dim;
    plan.tile = tile;
    plan.keys = {MapRows(a.k, kv_map, 2), channels, a.aligned != 0};
    plan.values = {MapRows(a.v, kv_map, 2), channels, a.aligned != 0};
    plan.walk = KeyWalk<Shape::kKeys>(a.tiles, tile.mask_row,
                                      a.causal && behind < a.tiles.k_len ? behind : a.tiles.k_len);
    for (int i = 0; i < 2; ++i) plan.step(i);
}

template <class Shape>
__device__ __forceinline__ void fetch_keys(int place, const RowFetch& from, const KeyTile& keys) {
    if (keys.kept == 0) return;
    fetch_rows<Shape>(gpu::shared() + place, from, keys.first, Shape::kKeys,
                      [&](int row) { return (keys.kept >> row & 1) != 0; });
}

/// Whether some scores of a portion are not plain products.
template <class Shape>
__device__ __forceinline__ bool is_special(const FloatAttentionArgs& a, const QueryTile& tile,
                                           const KeyTile& keys) {
    const bool later = a.causal && keys.first + Shape::kKeys > tile.first + a.tiles.k_len - a.tiles.q_len + 1;
    return keys.kept != KeyWalk<Shape::kKeys>::kAll || later || a.bias != nullptr;
}

/// The portions of a plan, of which the first is on its way, keys before values. fetch(place, keys) brings
/// keys, multiply(s, place) makes scores of them; factor_of as for take_powers().
template <class Shape, class Fetch, class Multiply, class Factor>
__device__ __forceinline__ void attend(Plan<Shape::kKeys>& plan, const FloatAttentionArgs& a,
                                       const Fetch& fetch, const Multiply& multiply,
                                       const Factor& factor_of) {
    FloatRows<Shape> rows;
    rows.begin();
    const auto weigh = [&](Weights<Shape>& weights, const KeyTile& keys, int place) {
        float s[Shape::kQueryTiles][Shape::kKeyTiles][4];
        multiply(s, place);
        if (is_special<Shape>(a, plan.tile, keys)) edit_scores<Shape>(s, a, plan.tile, keys);
        take_powers<Shape>(s, rows, weights, factor_of);
    };
    go_round<Ring<Shape>, Weights<Shape>>(
        plan, fetch, [&](int place, const KeyTile& keys) { fetch_keys<Shape>(place, plan.values, keys); },
        weigh, [&](const Weights<Shape>& weights, int place) { add_values<Shape>(rows, weights, place); });
    store_rows<Shape>(rows, a, plan.tile);
}

template <class Shape>
__device__ __forceinline__ void float_attention(const FloatAttentionArgs& a) {
    const int tile_rows = static_cast<int>(blockDim.x / 32) * Shape::kWarpRows;
    auto& plan = *reinterpret_cast<Plan<Shape::kKeys>*>(gpu::shared());
    static_assert(sizeof(plan) <= Shape::kTops);
    const auto fetch = [&](int place, const KeyTile& keys) { fetch_keys<Shape>(place, plan.keys, keys); };
    {
        const QueryTile tile(a.tiles, tile_rows);
        if (tile.first >= tile.last) return;
        if (threadIdx.x == 0) make_plan<Shape>(plan, a, tile);
        __syncthreads();
        const int channels = Shape::kParts == 2 ? Shape::kWidth * 2 : a.head_dim;
        fetch_rows<Shape>(gpu::shared() + Shape::kQueries,
                          {MapRows(a.q, tile.map, 2), channels, a.aligned != 0}, tile.first, tile_rows,
                          [&](int row) { return tile.first + row < tile.last; });
        fetch(Ring<Shape>::keys_at(0), plan.portions[0]);
        gpu::cp_async_commit();
        fetch_keys<Shape>(Ring<Shape>::values_at(0), plan.values, plan.portions[0]);
        gpu::cp_async_commit();
    }
    const auto multiply = [&](float(&s)[Shape::kQueryTiles][Shape::kKeyTiles][4], int place) {
        multiply_floats<Shape>(s, tile_rows, place);
    };
    attend<Shape>(plan, a, fetch, multiply, [&](int, int) { return a.factor; });
}

/// A thread per key.
__device__ __forceinline__ void key_words(const KeyWordsArgs& a) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i / 32 * 32 >= a.items * a.padded) return;
    const std::int64_t key = i % a.padded;
    const std::uint32_t seen = gpu::ballot(key < a.tokens && a.mask[i / a.padded * a.tokens + key] != 0);
    if (threadIdx.x % 32 == 0) a.to[i / 32] = seen;
}

/// One warp per row.
__device__ __forceinline__ void split_rows(const SplitRowsArgs& a) {
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float* x = static_cast<const float*>(a.from.data) + row_at(a.from, row / a.tokens, row % a.tokens);
    auto* to = static_cast<std::uint32_t*>(a.to) + row * a.width;  // two elements each
    for (int i = static_cast<int>(threadIdx.x % 32); i < a.width / 2; i += 32) {
        const float left = i * 2 < a.head_dim ? x[i * 2] : 0.0F,
                    right = i * 2 + 1 < a.head_dim ? x[i * 2 + 1] : 0.0F;
        const std::uint32_t high = gpu::pack_bf16(left, right);
        to[i] = high;
        to[a.width / 2 + i] = rest_of(high, left, right);
    }
}

}  // namespace aerogel::cuda
