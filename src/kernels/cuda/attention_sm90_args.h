// What attention by wgmma (sm_90a) is called with, and how keys and values lie for it.
#pragma once

#include "kernels/cuda/attention_args.h"

namespace aerogel::cuda {

/// Keys and values come in blocks of 64 tokens: rows of 128 bytes, swizzled as wgmma takes them, those of the
/// first 128 bytes of all tokens first. A part of 64 rows is one run of bytes. Tokens that are not there are
/// zeros.
constexpr int kTileTokens = 64, kTileRow = 128, kTilePart = kTileTokens * kTileRow;

/// One kernel: channels, warp groups that have 64 queries each, blocks of keys of a portion, portions in
/// shared memory, bytes of a number of q and k.
struct HopperAttentionShape {
    int width, groups, blocks, stages, score_bytes;

    constexpr int keys() const { return blocks * kTileTokens; }
    constexpr int rows() const { return groups * 64; }
    constexpr int threads() const { return (groups + 1) * 128; }
    /// Rows of 128 bytes that a token of q or k takes, and one of v.
    constexpr int score_parts() const {
        return width * score_bytes <= kTileRow ? 1 : width * score_bytes / kTileRow;
    }
    constexpr int value_parts() const { return width * 2 / kTileRow; }
    /// Shared memory: queries, keys, values, the scales of keys, what portions are, barriers.
    constexpr int key_bytes() const { return blocks * kTilePart * score_parts(); }
    constexpr int value_bytes() const { return blocks * kTilePart * value_parts(); }
    constexpr int keys_at() const { return groups * kTilePart * score_parts(); }
    constexpr int values_at() const { return keys_at() + stages * key_bytes(); }
    constexpr int scales_at() const { return values_at() + stages * value_bytes(); }
    constexpr int portions_at() const { return scales_at() + (score_bytes == 1 ? stages * keys() * 4 : 0); }
    constexpr int barriers_at() const { return portions_at() + stages * 32; }
    constexpr int shared_bytes() const { return barriers_at() + stages * 4 * 8; }
    /// Of a thread that copies (the scales of keys are more to copy), and of one that multiplies.
    constexpr int copy_registers() const { return score_bytes == 1 ? 72 : 56; }
    constexpr int registers() const {
        return groups == 2 ? (504 - copy_registers()) / 2 : 256 - copy_registers();
    }
    /// The 256 threads that have a multiprocessor for themselves want for no registers: none move.
    constexpr bool moves_registers() const { return width < 256; }
};

/// For blocks of up to 64 queries two blocks of threads share a multiprocessor where they fit. Two groups of
/// width 256 would not have the registers.
constexpr HopperAttentionShape hopper_attention(int width, int groups, int score_bytes) {
    return {width, groups, width == 256 || groups == 1 ? 1 : 2, 2, score_bytes};
}

/// Keys of a portion, by block: a bit for each that is kept. No bit at all: there is none.
struct HopperPortion {
    std::int32_t first[2];
    std::uint64_t kept[2];
};

struct HopperAttentionArgs {
    FloatAttentionArgs rest;                         ///< its k and v are not used
    const unsigned char *k = nullptr, *v = nullptr;  ///< blocks of the maps
    /// Of q and k in int8: rows of width bytes, and a scale for each. Behind a block of k are its scales and
    /// as many bytes again (Int8Shape).
    const unsigned char* q = nullptr;
    const float* q_scale = nullptr;
    std::int32_t o_in_pairs = 0;  ///< pairs of channels are whole and begin at 4 bytes
};

/// Rows of 16-bit numbers to such blocks.
struct TileRowsArgs {
    AttentionRows from;
    unsigned char* to = nullptr;
    std::int64_t tokens = 0, rows = 0;  ///< rows: of all blocks of all maps
    std::int32_t head_dim = 0, width = 0, aligned = 0;
};

}  // namespace aerogel::cuda
