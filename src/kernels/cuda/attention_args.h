// What the attention kernels of CUDA are called with: plain data, the same for nvcc, the emulator and the
// rows.
#pragma once

#include <cstdint>

namespace aerogel::cuda {

/// Where the rows of q, k, v or o lie, as AttentionStrides says, for maps first_map, first_map + 1 ...
struct AttentionRows {
    const void* data = nullptr;
    std::int64_t batch = 0, head = 0, token = 0;  ///< in elements
    std::int64_t heads = 1;                       ///< of the maps
    std::int64_t shared = 1;
    const std::int32_t* const* order = nullptr;
    std::int64_t first_map = 0;
};

/// How the scores are cut: tiles of queries of one block of the mask (or of all queries) meet the keys that
/// the block keeps.
struct AttentionTiles {
    std::int64_t q_len = 0, k_len = 0;
    std::int64_t block_q = 0, block_k = 0;  ///< of the mask; dense: q_len and k_len
    std::int64_t q_blocks = 1;
    std::int64_t tiles_of_block = 1;
    const std::int64_t* row_start = nullptr;  ///< from those of map 0 of the whole call on; null: dense
    const std::int64_t* row_end = nullptr;
    const std::int32_t* columns = nullptr;
    std::int64_t group = 1;  ///< maps of q that share one of k and v
    /// A bit for each key that is not hidden, in whole words for each item of the batch; null: none is.
    const std::uint64_t* seen = nullptr;
    std::int64_t seen_words = 0;
    std::int64_t heads = 1, first_map = 0;  ///< of q: map i is first_map + i of the call
};

/// One kernel of float attention: channels in shared memory, 16-query tiles of a warp, keys of a portion, and
/// of how many numbers an operand is the sum.
struct FloatAttentionShape {
    int width, query_tiles, keys, parts;

    static constexpr int kMostWarps = 4, kPlaces = 3;
    constexpr int row_bytes() const { return width * 2; }
    constexpr int warp_rows() const { return 16 * query_tiles; }
    constexpr int place_bytes() const { return keys * row_bytes() * parts; }

    /// What shared memory holds, one behind the other: the plan, largest scores, the ring, the queries.
    static constexpr int kTops = 512, kRing = kTops + 512;
    constexpr int queries() const { return kRing + kPlaces * place_bytes(); }
    constexpr int shared_bytes(int warps) const {
        return queries() + warps * warp_rows() * row_bytes() * parts;
    }
};

/// Of 16 bits, and of f32 as two numbers of 16 bits. Portions are as long as registers and shared memory
/// allow.
constexpr FloatAttentionShape kNarrowShape = {64, 2, 64, 1}, kMiddleShape = {128, 2, 32, 1},
                              kWideShape = {256, 1, 32, 1};
constexpr FloatAttentionShape kNarrowSplit = {64, 1, 32, 2}, kMiddleSplit = {128, 1, 32, 2},
                              kWideSplit = {256, 1, 16, 2};

struct FloatAttentionArgs {
    AttentionRows q, k, v, o;
    AttentionTiles tiles;
    const float* bias = nullptr;  ///< [heads, q_len + k_len - 1] or null
    float* lse = nullptr;         ///< [maps, q_len] or null
    float factor = 1.0F;          ///< of the scores, log2(e) scale
    float inverse_scale = 1.0F;   ///< of the bias
    std::int32_t head_dim = 0;
    std::int32_t causal = 0;
    std::int32_t aligned = 0;    ///< rows of q, k and v begin at 16 bytes and have whole 16 bytes
    std::int32_t out_bytes = 4;  ///< of an element of o: 4 is f32, 2 the type of q
};

/// Bytes to bits: words of 32 keys, `padded` keys an item.
struct KeyWordsArgs {
    const std::uint8_t* mask = nullptr;  ///< [items, tokens]
    std::uint32_t* to = nullptr;         ///< [items, padded / 32]
    std::int64_t tokens = 0, padded = 0, items = 0;
};

/// Rows of f32 as pairs of bf16: [maps][tokens][2][width], x = high + low to 2^-17 of itself; zeros behind
/// head_dim.
struct SplitRowsArgs {
    AttentionRows from;
    void* to = nullptr;
    std::int64_t tokens = 0, rows = 0;  ///< rows = maps * tokens
    std::int32_t head_dim = 0, width = 0;
};

}  // namespace aerogel::cuda
