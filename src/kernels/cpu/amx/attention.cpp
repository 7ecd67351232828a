// The products of bfloat16 attention in AMX tiles. tdpbf16ps multiplies 16 x 32 by 32 x 16 and sums in
// float32.
//
// Per 32 rows x 32 keys and a head_dim of 128: 16 products for the scores and 16 for the values, 512 cycles
// of the tile unit (tile_blocks.h), and some 15 x 64 instructions of the softmax, 240 cycles at four a cycle.
// They overlap: the scores of the next rows are multiplied between rows of the softmax. Tasks of 256 rows
// halve what keys and values cost that come from beyond the second cache, 16 KiB per 32 keys and task.
// Written from these counts; no machine with AMX was at hand.
#include "kernels/cpu/amx/kernels.h"
#include "kernels/cpu/amx/tile_blocks.h"
#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/bf16_attention_driver.h"

namespace aerogel {
namespace {

constexpr TileShapes kWholeTiles = whole_tiles();

/// Rows of 32-bit pairs times tiles of columns, added to sums; `both` = 32 rows, else 16.
struct TileOperands {
    const Bf16Bits* rows;
    std::int64_t row_bytes;
    const Bf16Bits* left;  ///< tile of the first 16 columns
    const Bf16Bits* right;
    bool both;
};

inline void multiply_tiles(const TileOperands& x) {
    _tile_loadd(4, x.rows, x.row_bytes);
    _tile_loadd(6, x.left, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, x.right, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (!x.both) return;
    _tile_loadd(5, reinterpret_cast<const std::byte*>(x.rows) + kHalf * x.row_bytes, x.row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

struct TileProducts {
    static constexpr std::int64_t kTaskRows = 2 * kMaxTileRows;
    static constexpr bool kOverlaps = true;

    static void begin() { _tile_loadconfig(&kWholeTiles); }
    static void end() { _tile_release(); }

    /// Scores for one panel of 32 keys.
    static void score_panel(const Bf16Tile& tile, const Bf16Bits* k, float* scores) {
        const std::int64_t steps = tile.d / kDepth;
        const bool both = tile.rows > kHalf;
        stores_are_done();
        clear_sums();
        for (std::int64_t step = 0; step < steps; ++step)
            multiply_tiles({tile.q + step * kDepth, tile.d * 2, k + step * kTileSize,
                            k + (steps + step) * kTileSize, both});
        store_sums(scores, kScoreStride, both);
    }

    /// o += weights v.
    [[gnu::noinline]] static void add_values(const Bf16Tile& tile, const ValuePanels& panels) {
        stores_are_done();
        const bool both = tile.rows > kHalf;
        for (std::int64_t d = 0; d < tile.d; d += kBlock) {
            const std::int64_t channels = d / kHalf * kTileSize;
            float* o = tile.o + d;
            _tile_loadd(0, o, tile.d * 4);
            _tile_loadd(1, o + kHalf, tile.d * 4);
            if (both) {
                _tile_loadd(2, o + kHalf * tile.d, tile.d * 4);
                _tile_loadd(3, o + kHalf * tile.d + kHalf, tile.d * 4);
            }
            for (std::int64_t p = 0; p < panels.count; ++p)
                multiply_tiles({tile.weights + p * kBlock, kWeightStride * 2, panels.at[p] + channels,
                                panels.at[p] + channels + kTileSize, both});
            store_sums(o, tile.d, both);
        }
    }
};

}  // namespace

constexpr AttentionKernel amx::kAttention = {.name = "cpu.amx.bf16_attention",
                                             .formats = kFloatFormats,
                                             .why_not = takes_bf16,
                                             .workspace_bytes = bf16_attention_workspace<TileProducts>,
                                             .run = bf16_attention<TileProducts>,
                                             .rounds_weights = true};

}  // namespace aerogel
