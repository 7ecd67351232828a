// Flash attention on Hopper (sm_90a). One warp copies keys and values, made ready by tile_rows(), by TMA as
// runs of bytes; one or two warp groups have 64 queries each and multiply by wgmma. While a group takes the
// powers of a portion's scores, its products of the weights before with their values are under way, as in
// FlashAttention-3 (Shah et al. 2024); rescaling and masks as in attention.cuh. q and k of 16 bits, or of
// int8 with a scale per token (the format int8_qk).
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_sm90_args.h"
#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::cuda {

/// What is multiplied, by types of v.
struct GroupBf16 : Bf16 {
    template <int kSums>
    static __device__ __forceinline__ void scores(float (&s)[kSums], std::uint64_t q, std::uint64_t k,
                                                  bool more) {
        gpu::wgmma_bf16(s, q, k, more);
    }
    template <int kSums>
    static __device__ __forceinline__ void values(float (&o)[kSums], const std::uint32_t (&p)[4],
                                                  std::uint64_t v) {
        gpu::wgmma_bf16_transposed(o, p, v);
    }
};
struct GroupF16 : F16 {
    template <int kSums>
    static __device__ __forceinline__ void scores(float (&s)[kSums], std::uint64_t q, std::uint64_t k,
                                                  bool more) {
        gpu::wgmma_f16(s, q, k, more);
    }
    template <int kSums>
    static __device__ __forceinline__ void values(float (&o)[kSums], const std::uint32_t (&p)[4],
                                                  std::uint64_t v) {
        gpu::wgmma_f16_transposed(o, p, v);
    }
};

template <bool kInt8>
struct ScoreOf {
    using Type = float;
};
template <>
struct ScoreOf<true> {
    using Type = std::int32_t;
};

/// The barriers of the portions in shared memory, and what they are.
template <HopperAttentionShape S>
struct HopperStages {
    static __device__ __forceinline__ std::uint64_t* barriers(int kind) {
        return reinterpret_cast<std::uint64_t*>(gpu::shared() + S.barriers_at()) + kind * S.stages;
    }
    static __device__ __forceinline__ std::uint64_t* keys_here(int i) { return barriers(0) + i % S.stages; }
    static __device__ __forceinline__ std::uint64_t* values_here(int i) { return barriers(1) + i % S.stages; }
    static __device__ __forceinline__ std::uint64_t* keys_read(int i) { return barriers(2) + i % S.stages; }
    static __device__ __forceinline__ std::uint64_t* values_read(int i) { return barriers(3) + i % S.stages; }
    static __device__ __forceinline__ std::uint32_t parity(int i) {
        return static_cast<std::uint32_t>(i / S.stages & 1);
    }
    static __device__ __forceinline__ unsigned char* keys(int i) {
        return gpu::shared() + S.keys_at() + i % S.stages * S.key_bytes();
    }
    static __device__ __forceinline__ unsigned char* values(int i) {
        return gpu::shared() + S.values_at() + i % S.stages * S.value_bytes();
    }
    static __device__ __forceinline__ float* scales(int i) {
        return reinterpret_cast<float*>(gpu::shared() + S.scales_at()) + i % S.stages * S.keys();
    }
    static __device__ __forceinline__ HopperPortion& portion(int i) {
        return reinterpret_cast<HopperPortion*>(gpu::shared() + S.portions_at())[i % S.stages];
    }
    /// By one thread.
    static __device__ __forceinline__ void begin() {
        for (int s = 0; s < S.stages; ++s) {
            gpu::mbarrier_init(keys_here(s), 1);
            gpu::mbarrier_init(values_here(s), 1);
            gpu::mbarrier_init(keys_read(s), S.groups * 4);  // warps
            gpu::mbarrier_init(values_read(s), S.groups * 4);
        }
        gpu::mbarrier_fence_init();
    }
};

/// The warp that copies.
template <HopperAttentionShape S>
struct HopperCopier {
    using Stages = HopperStages<S>;
    using Walk = KeyWalk<kTileTokens>;
    static constexpr int kKeyParts = S.score_parts(), kValueParts = S.value_parts();
    static constexpr bool kInt8 = S.score_bytes == 1;
    static constexpr int kKeyBlock = kTilePart * kKeyParts + (kInt8 ? kTileTokens * 8 : 0);
    static constexpr int kValueBlock = kTilePart * kValueParts;

    const unsigned char *k, *v;  ///< blocks of the map
    Walk walk;

    __device__ __forceinline__ HopperCopier(const HopperAttentionArgs& a, const QueryTile& tile) {
        const AttentionTiles& tiles = a.rest.tiles;
        const std::int64_t kv_map = tile.map / tiles.group, behind = tile.last + tiles.k_len - tiles.q_len;
        const std::int64_t blocks = kv_map * ((tiles.k_len + kTileTokens - 1) / kTileTokens);
        k = a.k + blocks * kKeyBlock;
        v = a.v + blocks * kValueBlock;
        walk = Walk(tiles, tile.mask_row, a.rest.causal && behind < tiles.k_len ? behind : tiles.k_len);
    }

    __device__ __forceinline__ void run() {
        for (int i = 0;; ++i) {
            HopperPortion portion = {};
#pragma unroll
            for (int b = 0; b < S.blocks; ++b) {
                KeyTile keys;
                if (!walk.next(keys)) continue;
                portion.first[b] = keys.first;
                portion.kept[b] = keys.kept;
            }
            // Of a block that is not there scores are taken away, but they are computed: from the other one.
            if (portion.kept[1] == 0) portion.first[1] = portion.first[0];
            gpu::mbarrier_wait(Stages::keys_read(i), Stages::parity(i) ^ 1U);
            if (threadIdx.x == 0) {
                Stages::portion(i) = portion;
                copy_keys(i);
            }
            if (portion.kept[0] == 0) return;
            gpu::mbarrier_wait(Stages::values_read(i), Stages::parity(i) ^ 1U);
            __syncwarp();  // the portion is in shared memory
            copy_values(i);
        }
    }

    // Loops are not unrolled, and portions are read where they lie: this warp has few registers.
    /// By one thread.
    __device__ __forceinline__ void copy_keys(int i) const {
        const HopperPortion& portion = Stages::portion(i);
        std::uint64_t* const here = Stages::keys_here(i);
        if (portion.kept[0] == 0) {
            gpu::mbarrier_arrive(here);
            return;
        }
        gpu::mbarrier_expect(here, S.key_bytes() + (kInt8 ? S.keys() * 4 : 0));
#pragma unroll 1
        for (int b = 0; b < S.blocks; ++b) {
            const unsigned char* const from =
                k + static_cast<std::int64_t>(portion.first[b] / kTileTokens) * kKeyBlock;
#pragma unroll 1
            for (int part = 0; part < kKeyParts; ++part)
                gpu::bulk_load(Stages::keys(i) + (part * S.blocks + b) * kTilePart, from + part * kTilePart,
                               kTilePart, here);
            if constexpr (kInt8)
                gpu::bulk_load(Stages::scales(i) + b * kTileTokens, from + kTilePart * kKeyParts,
                               kTileTokens * 4, here);
        }
    }

    /// Rows that are not kept become zeros: their weights are zero, and 0 * NaN is not.
    __device__ __forceinline__ void copy_values(int i) const {
        const HopperPortion& portion = Stages::portion(i);
        int rows = 0;
#pragma unroll 1
        for (int b = 0; b < S.blocks; ++b) {
            rows += __popcll(portion.kept[b]);
            if (portion.kept[b] == Walk::kAll) continue;
            for (int c = static_cast<int>(threadIdx.x); c < kValueBlock / 16; c += 32) {
                const int row = c / 8 % kTileTokens, part = c / 8 / kTileTokens;
                if ((portion.kept[b] >> row & 1) == 0)
                    gpu::store(
                        Stages::values(i) + (part * S.blocks + b) * kTilePart + row * kTileRow + c % 8 * 16,
                        make_uint4(0, 0, 0, 0));
            }
        }
        if (rows != S.keys()) gpu::fence_async();
        __syncwarp();
        if (threadIdx.x != 0) return;
        gpu::mbarrier_expect(Stages::values_here(i), rows * kTileRow * kValueParts);
#pragma unroll 1
        for (int b = 0; b < S.blocks; ++b) {
            for (int row = 0, end; row < kTileTokens; row = end) {
                const bool kept = (portion.kept[b] >> row & 1) != 0;
                end = portion.kept[b] == Walk::kAll ? kTileTokens : row + 1;
                while (end < kTileTokens && ((portion.kept[b] >> end & 1) != 0) == kept) ++end;
                if (kept) copy_rows(i, b, portion.first[b] / kTileTokens, row, end);
            }
        }
    }

    __device__ __forceinline__ void copy_rows(int i, int b, int block, int row, int end) const {
        const unsigned char* const from = v + static_cast<std::int64_t>(block) * kValueBlock + row * kTileRow;
        unsigned char* const to = Stages::values(i) + b * kTilePart + row * kTileRow;
#pragma unroll 1
        for (int part = 0; part < kValueParts; ++part)
            gpu::bulk_load(to + part * S.blocks * kTilePart, from + part * kTilePart, (end - row) * kTileRow,
                           Stages::values_here(i));
    }
};

/// A warp group and its 64 queries. A thread has rows lane/4 and lane/4 + 8 of its warp's 16.
template <class T, HopperAttentionShape S>
struct HopperRows {
    using Stages = HopperStages<S>;
    static constexpr bool kInt8 = S.score_bytes == 1;
    using Score = typename ScoreOf<kInt8>::Type;
    static constexpr int kScores = S.keys() / 2, kKeyTiles = S.keys() / 8;

    const HopperAttentionArgs& a;
    const QueryTile& tile;
    int group, row, column;  ///< row: of the map's queries, the thread's first; column: of a tile of 8 keys
    float top[2], sum[2], factor[2];
    float o[S.width / 2];
    std::uint32_t p[S.keys() / 16][4];

    __device__ __forceinline__ HopperRows(const HopperAttentionArgs& args, const QueryTile& of)
        : a(args), tile(of), group(static_cast<int>(threadIdx.x) / 128 - 1) {
        const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
        row = tile.first + group * 64 + warp * 16 + lane / 4;
        column = lane % 4 * 2;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            top[e] = -INFINITY;
            sum[e] = 0.0F;
            factor[e] = a.rest.factor;
            if (kInt8 && row + e * 8 < tile.last) {
                factor[e] *= a.q_scale[tile.map * a.rest.tiles.q_len + row + e * 8];
                // -infinity of a key that is not seen times 0 would be NaN.
                if (factor[e] == 0.0F) factor[e] = 0x1p-126F;
            }
        }
#pragma unroll
        for (int i = 0; i < S.width / 2; ++i) o[i] = 0.0F;
    }

    __device__ __forceinline__ unsigned char* queries() const {
        return gpu::shared() + group * kTilePart * S.score_parts();
    }

    __device__ __forceinline__ void fetch_queries() const {
        constexpr int kRowChunks = S.width * S.score_bytes / 16;
        const int first = tile.first + group * 64;
        const RowFetch from = {MapRows(a.rest.q, tile.map, 2), a.rest.head_dim, a.rest.aligned != 0};
        for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * kRowChunks; i += 128) {
            const int r = i / kRowChunks, chunk = i % kRowChunks;
            unsigned char* const to =
                queries() + chunk / 8 * kTilePart + r * kTileRow + (((chunk % 8) ^ (r & 7)) << 4);
            const bool inside = first + r < tile.last;
            if constexpr (kInt8) {
                const std::int64_t at = tile.map * a.rest.tiles.q_len + first + r;
                gpu::cp_async16(to, a.q + (inside ? at * S.width + chunk * 16 : 0), inside);
            } else if (from.aligned) {
                const bool kept = inside && chunk * 8 < from.channels;
                gpu::cp_async16(to, kept ? from.rows.at(first + r) + chunk * 16 : from.rows.data, kept);
            } else {
                fetch_elements(to, from, inside ? from.rows.at(first + r) : nullptr, chunk);
            }
        }
        gpu::cp_async_wait_all();
        gpu::fence_async();
        gpu::barrier_sync(1 + group, 128);
    }

    /// Waits for the keys of portion i.
    __device__ __forceinline__ HopperPortion wait_for(int i) const {
        gpu::mbarrier_wait(Stages::keys_here(i), Stages::parity(i));
        return Stages::portion(i);
    }

    __device__ __forceinline__ void begin_scores(Score (&s)[kScores], int i) const {
        if constexpr (kInt8) {
            // The first product does not read them, but else they would be kept beside the floats.
#pragma unroll
            for (int c = 0; c < kScores; ++c) s[c] = 0;
        }
        gpu::wgmma_fence();
#pragma unroll
        for (int step = 0; step < S.width * S.score_bytes / 32; ++step) {
            const std::uint64_t q = gpu::descriptor(queries() + step / 4 * kTilePart + step % 4 * 32);
            const std::uint64_t k =
                gpu::descriptor(Stages::keys(i) + step / 4 * S.blocks * kTilePart + step % 4 * 32);
            if constexpr (kInt8) {
                gpu::wgmma_s8(s, q, k, step > 0);
            } else {
                T::scores(s, q, k, step > 0);
            }
        }
        gpu::wgmma_commit();
    }

    __device__ __forceinline__ void begin_values(int i) {
        gpu::mbarrier_wait(Stages::values_here(i), Stages::parity(i));
        gpu::wgmma_fence();
#pragma unroll
        for (int step = 0; step < S.keys() / 16; ++step)
            T::values(
                o, p[step],
                gpu::descriptor_transposed(Stages::values(i) + step * 16 * kTileRow, S.blocks * kTilePart));
        gpu::wgmma_commit();
    }

    /// This warp has read it.
    __device__ __forceinline__ void give_back(std::uint64_t* barrier) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) gpu::mbarrier_arrive(barrier);
    }

    /// Whether some scores of a portion are not plain products.
    __device__ __forceinline__ bool is_special(const HopperPortion& now) const {
        const auto seen = static_cast<int>(a.rest.tiles.k_len - a.rest.tiles.q_len) + tile.first + group * 64;
        bool special = a.rest.bias != nullptr;
#pragma unroll
        for (int b = 0; b < S.blocks; ++b)
            special = special || now.kept[b] != KeyWalk<kTileTokens>::kAll ||
                      (a.rest.causal && now.first[b] + kTileTokens - 1 > seen);
        return special;
    }

    /// Takes away what is not to be seen, and adds the bias.
    __device__ __forceinline__ void edit(float (&s)[kScores], const HopperPortion& now) const {
        const AttentionTiles& tiles = a.rest.tiles;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int query = row + e * 8;
            const float* bias = nullptr;
            if (a.rest.bias != nullptr && query < tile.last)
                bias = a.rest.bias +
                       (tile.map + a.rest.o.first_map) % a.rest.o.heads * (tiles.q_len + tiles.k_len - 1) +
                       tiles.q_len - 1 - query;
#pragma unroll
            for (int b = 0; b < S.blocks; ++b) {
                const int first = now.first[b] + column;
                const std::uint64_t kept = now.kept[b] >> column;
                const int seen = a.rest.causal
                                     ? query + static_cast<int>(tiles.k_len - tiles.q_len) + 1 - first
                                     : kTileTokens;
#pragma unroll
                for (int j = 0; j < kTileTokens / 8; ++j)
#pragma unroll
                    for (int c = 0; c < 2; ++c) {
                        float& x = s[(b * (kTileTokens / 8) + j) * 4 + e * 2 + c];
                        const bool is_kept = (kept >> (j * 8 + c) & 1) != 0 && j * 8 + c < seen;
                        if (bias != nullptr && is_kept)
                            x = __fmaf_rn(bias[first + j * 8 + c], a.rest.inverse_scale, x);
                        if (!is_kept) x = -INFINITY;
                    }
            }
        }
    }

    /// Scores become weights relative to the new largest ones, by whose growth all before is to be
    /// multiplied.
    __device__ __forceinline__ void take_powers(float (&s)[kScores], float (&fall)[2]) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float most = -INFINITY;
#pragma unroll
            for (int j = 0; j < kKeyTiles; ++j)
                most = fmaxf(most, fmaxf(s[j * 4 + e * 2], s[j * 4 + e * 2 + 1]));
            most = fmaxf(most, gpu::shfl_xor(most, 1));
            most = fmaxf(most, gpu::shfl_xor(most, 2));
            const float before = top[e];
            top[e] = fmaxf(before, most * factor[e]);
            // A row that has seen no key yet: its weights are 2^-inf, not 2^(-inf + inf).
            const float base = top[e] == -INFINITY ? 0.0F : top[e];
            float all = 0.0F;
#pragma unroll
            for (int i = 0; i < kKeyTiles * 2; ++i) {
                float& x = s[i / 2 * 4 + e * 2 + i % 2];
                x = gpu::exp2_fast(__fmaf_rn(x, factor[e], -base));
                all += x;
            }
            fall[e] = gpu::exp2_fast(before - base);
            sum[e] = __fmaf_rn(sum[e], fall[e], all);
        }
    }

    /// As products take them.
    __device__ __forceinline__ void pack(const float (&s)[kScores]) {
#pragma unroll
        for (int i = 0; i < S.keys() / 4; ++i)
            p[i / 4][i % 4] = T::pack(s[i / 2 * 4 + i % 2 * 2], s[i / 2 * 4 + i % 2 * 2 + 1]);
    }

    /// The weights of portion i, whose scores are there; the keys go back.
    __device__ __forceinline__ void weigh(Score (&s)[kScores], float (&x)[kScores], const HopperPortion& now,
                                          int i, float (&fall)[2]) {
        if constexpr (kInt8) {
            const float* const scales = Stages::scales(i) + column;
#pragma unroll
            for (int j = 0; j < kKeyTiles; ++j) {
                const auto scale = gpu::load<float2>(scales + j * 8);
#pragma unroll
                for (int c = 0; c < 4; ++c)
                    x[j * 4 + c] = __int2float_rn(s[j * 4 + c]) * (c % 2 == 0 ? scale.x : scale.y);
            }
        }
        give_back(Stages::keys_read(i));
        if (is_special(now)) edit(x, now);
        take_powers(x, fall);
    }

    __device__ __forceinline__ void run() {
        fetch_queries();
        Score s[kScores];
        float floats[kInt8 ? kScores : 1], fall[2];
        float(&x)[kScores] = weights_of(s, floats);
        HopperPortion now = wait_for(0);
        if (now.kept[0] != 0) {
            begin_scores(s, 0);
            gpu::wgmma_wait<0>(s);
            weigh(s, x, now, 0, fall);
            pack(x);
            int i = 1;
            for (;; ++i) {
                now = wait_for(i);
                if (now.kept[0] == 0) break;
                begin_scores(s, i);
                begin_values(i - 1);
                gpu::wgmma_wait<1>(s);  // the scores are there
                weigh(s, x, now, i, fall);
                gpu::wgmma_wait<0>(o);
                gpu::wgmma_hold(x);  // the weights before are still read until here
                give_back(Stages::values_read(i - 1));
                if (gpu::ballot(fall[0] != 1.0F || fall[1] != 1.0F) != 0) {
#pragma unroll
                    for (int c = 0; c < S.width / 2; ++c) o[c] *= fall[c / 2 % 2];
                }
                pack(x);
            }
            begin_values(i - 1);
            gpu::wgmma_wait<0>(o);
        }
        store();
    }

    /// Weights take the registers of the scores, or of their own where those are integers.
    template <int kFloats>
    static __device__ __forceinline__ float (&weights_of(Score (&s)[kScores],
                                                         float (&floats)[kFloats]))[kScores] {
        if constexpr (kInt8) {
            return floats;
        } else {
            return s;
        }
    }

    /// Divides by the sums; rows without keys are zeros.
    __device__ __forceinline__ void store() const {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float all = sum[e];
            all += gpu::shfl_xor(all, 1);
            all += gpu::shfl_xor(all, 2);
            const bool empty = all == 0.0F;  // else at least the largest weight, which is 1
            const float inverse = empty ? 0.0F : 1.0F / all;
            const int query = row + e * 8;
            if (query >= tile.last) continue;
            if (a.rest.lse != nullptr && column == 0)
                a.rest.lse[tile.map * a.rest.tiles.q_len + token_of(a.rest.o, tile.map, query)] =
                    empty ? -INFINITY : top[e] * kLn2 + logf(all);
            auto* const to = static_cast<std::uint16_t*>(const_cast<void*>(a.rest.o.data)) +
                             row_at(a.rest.o, tile.map, query);
#pragma unroll
            for (int j = 0; j < S.width / 8; ++j) {
                const int channel = j * 8 + column;
                const float left = empty ? 0.0F : o[j * 4 + e * 2] * inverse,
                            right = empty ? 0.0F : o[j * 4 + e * 2 + 1] * inverse;
                const std::uint32_t both = T::pack(left, right);
                if (channel >= a.rest.head_dim) continue;
                if (a.o_in_pairs != 0) {
                    gpu::store(to + channel, both);
                    continue;
                }
                to[channel] = static_cast<std::uint16_t>(both & 0xFFFF);
                if (channel + 1 < a.rest.head_dim) to[channel + 1] = static_cast<std::uint16_t>(both >> 16);
            }
        }
    }
};

template <class T, HopperAttentionShape S>
__device__ __forceinline__ void attention_sm90(const HopperAttentionArgs& a) {
    const QueryTile tile(a.rest.tiles, S.rows());
    if (tile.first >= tile.last) return;
    if (threadIdx.x == 0) HopperStages<S>::begin();
    __syncthreads();
    if (threadIdx.x / 128 == 0) {
        if constexpr (S.moves_registers()) gpu::set_registers_down<S.copy_registers()>();
        if (threadIdx.x < 32) HopperCopier<S>(a, tile).run();
    } else {
        if constexpr (S.moves_registers()) gpu::set_registers_up<S.registers()>();
        HopperRows<T, S>(a, tile).run();
    }
}

/// A thread per 16 bytes of a block.
__device__ __forceinline__ void tile_rows(const TileRowsArgs& a) {
    const int chunks = a.width / 8,
              blocks_of_map = static_cast<int>((a.tokens + kTileTokens - 1) / kTileTokens);
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const std::int64_t block = i / chunks / kTileTokens, map = block / blocks_of_map;
    const int row = static_cast<int>(i / chunks % kTileTokens), chunk = static_cast<int>(i % chunks);
    if (i / chunks >= a.rows) return;
    const std::int64_t token = block % blocks_of_map * kTileTokens + row;
    const bool inside = token < a.tokens;
    const RowFetch from = {MapRows(a.from, map, 2), a.head_dim, a.aligned != 0};
    unsigned char* const to = a.to + block * (a.width / 64 * kTilePart) + chunk / 8 * kTilePart +
                              row * kTileRow + (((chunk % 8) ^ (row & 7)) << 4);
    const unsigned char* const at = inside ? from.rows.at(static_cast<int>(token)) : nullptr;
    if (from.aligned) {
        uint4 words = make_uint4(0, 0, 0, 0);
        if (inside && chunk * 8 < from.channels) words = gpu::load_global<uint4>(at + chunk * 16);
        gpu::store(to, words);
    } else {
        fetch_elements(to, from, at, chunk);
    }
}

}  // namespace aerogel::cuda
