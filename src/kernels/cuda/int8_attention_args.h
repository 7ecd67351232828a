// What the kernels of int8 attention on CUDA are called with, and how q, k and v lie once they are integers.
#pragma once

#include "kernels/cuda/attention_args.h"

namespace aerogel::cuda {

/// Types of q, k and v.
enum class Elements : std::int32_t { f32, bf16, f16 };

/// Keys of a group, as kQuantizedKeyGroup.
constexpr int kInt8Group = 64;

/// Integers of q are rows [maps][tokens][width]. Those of k and v lie in blocks of a group, with all that
/// belongs to it, so that a block is one run of bytes:
/// - k: 64 rows of width bytes, 64 scales, 64 sums of a key's integers. Keys that are not there: zeros
/// - v: a row of 64 bytes per channel, the keys in the order in which mma.sync takes the weights that it gave
/// as scores
///   (value_key), width scales
struct Int8Shape {
    int width, query_tiles;

    static constexpr int kMostWarps = 4, kPlaces = 3, kTops = 512, kRing = kTops + 1024;
    constexpr int warp_rows() const { return 16 * query_tiles; }
    constexpr int key_bytes() const { return kInt8Group * (width + 8); }
    constexpr int value_bytes() const { return width * (kInt8Group + 4); }
    constexpr int place_bytes() const { return key_bytes() > value_bytes() ? key_bytes() : value_bytes(); }
    /// Shared memory: the plan, what belongs to queries, the ring, the queries.
    constexpr int queries() const { return kRing + kPlaces * place_bytes(); }
    constexpr int shared_bytes(int warps) const { return queries() + warps * warp_rows() * width; }
};
constexpr Int8Shape kNarrowInt8 = {64, 2}, kMiddleInt8 = {128, 1}, kWideInt8 = {256, 1};

struct Int8AttentionArgs {
    const unsigned char *q = nullptr, *k = nullptr, *v = nullptr;  ///< integers
    const float* q_scale = nullptr;                                ///< [maps, q_len]
    const float* q_offset = nullptr;                               ///< [maps] or null
    const float* v_shift = nullptr;                                ///< [kv_maps, head_dim] or null
    AttentionRows o;
    AttentionTiles tiles;
    float* lse = nullptr;
    float factor = 1.0F;  ///< log2(e) scale
    std::int32_t head_dim = 0;
    Elements out = Elements::f32;
};

/// Tokens of q or of k (with means and sums) to integers, one warp per token.
struct Int8TokensArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0, width = 0;
    std::int64_t tokens = 0, rows = 0;  ///< rows: maps * tokens; of k, whole groups
    const float* scale = nullptr;       ///< [maps, tokens] or null: found here
    const float* mean = nullptr;        ///< [maps, head_dim] or null
    const float* offset = nullptr;      ///< [maps] or null
    unsigned char* to = nullptr;
    float* scale_to = nullptr;  ///< of q
    std::int32_t swizzled = 0;  ///< of k: its 64 rows lie as wgmma takes them (tile_descriptor.h)
};

/// Groups of v to integers, or only their scales.
struct Int8ValuesArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0, width = 0;
    std::int64_t tokens = 0, groups = 0;  ///< groups of a map
    const float* scale = nullptr;         ///< [maps, groups, head_dim] or null: found here
    const float* mean = nullptr;
    const float* offset = nullptr;
    unsigned char* to = nullptr;  ///< null: scales only
    float* scale_to = nullptr;    ///< null or [maps, groups, head_dim]
};

/// A scale per block of tokens, repeated for each.
struct Int8BlockScalesArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0;
    std::int64_t tokens = 0, block = 1, blocks = 0;  ///< blocks of a map
    const float* mean = nullptr;
    float* scale_to = nullptr;  ///< [maps, tokens]
};

/// Sums over portions of the tokens, [maps, portions, head_dim], and from those the means.
struct Int8MeansArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0;
    std::int64_t tokens = 0, portions = 0, maps = 0;
    double* sums = nullptr;
    float* mean_to = nullptr;  ///< [maps, head_dim]
};

}  // namespace aerogel::cuda
