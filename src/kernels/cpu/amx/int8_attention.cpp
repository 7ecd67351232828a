// Int8 attention in AMX tiles: tdpbssd multiplies queries and keys as they are, tdpbusd weights and values.
// The packed keys and values of the vector kernels are tiles already: 16 steps of 4 bytes for 16 columns lie
// together. The integers and everything between them are those of avx512/int8_attention.cpp, to the bit.
//
// Per 32 rows x 32 keys and a head_dim of 128: 8 products for the scores and 8 for the values, 256 cycles of
// the tile unit (tile_blocks.h). The vectors need 64 x (load, convert, scale, store) for the scores, some
// 15 x 64 instructions for the softmax and 64 x 6 to add values: about 1,600, 400 cycles at four a cycle. A
// block of values is one step of k only, because each 64 keys have scales of their own, so its four stores
// of 16 cycles take as long as its products.
#include "kernels/cpu/amx/kernels.h"
#include "kernels/cpu/amx/tile_blocks.h"
#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/avx512/int8_bytes.h"
#include "kernels/cpu/int8_attention_driver.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {
namespace {

constexpr TileShapes kWholeTiles = whole_tiles();

/// Rows and two tiles of columns, in elements of four bytes.
struct ByteOperands {
    const std::int32_t* rows;
    std::int64_t stride;
    const std::int32_t* columns;
    std::int64_t right;  ///< from the first 16 columns to the others; 0: there are none
    bool both;           ///< 32 rows, else 16
};

/// Finishes 32 scores of each row.
struct FinishScores {
    const PackedMap* map = nullptr;
    std::int64_t key = 0, rows = 0, width = 0;
    float* scores = nullptr;

    void operator()(const std::int32_t* sums) const {
        for (std::int64_t column = 0; column < width; column += kTileSide) {
            const __m512 scale = Avx512::load(map->key_scale + key + column);
            __m512i bias = _mm512_setzero_si512();
            if (map->key_bias != 0)  // else nobody has summed the keys
                bias = _mm512_mullo_epi32(_mm512_loadu_si512(map->key_sum + key + column),
                                          _mm512_set1_epi32(map->key_bias));
            for (std::int64_t r = 0; r < rows; ++r) {
                const __m512i sum = _mm512_load_si512(sums + r * kBlockSide + column);
                const __m512 score = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, bias));
                Avx512::store(scores + r * kTileColumns + column, Avx512::mul(score, scale));
            }
        }
    }
};

/// Adds the values of a group in 32 channels to each row.
struct FinishValues {
    ValuePlace place = {};
    std::int64_t rows = 0, width = 0;  ///< width: 16 or 32, where place.width may end before

    void operator()(const std::int32_t* sums) const {
        for (std::int64_t column = 0; column < width; column += kTileSide) {
            const __m512 scale =
                Avx512::load_part(place.scale + column, smaller(kTileSide, place.width - column));
            for (std::int64_t r = 0; r < rows; ++r) {
                const float* factor = place.factor + r * 2 * kTileGroups;
                float* o = place.o + r * place.stride + column;
                __m512 before = Avx512::load(o);
                if (place.fresh) before = Avx512::mul(before, Avx512::set1(factor[kTileGroups]));
                const __m512 value =
                    Avx512::mul(_mm512_cvtepi32_ps(_mm512_load_si512(sums + r * kBlockSide + column)), scale);
                Avx512::store(o, Avx512::fma(Avx512::set1(factor[0]), value, before));
            }
        }
    }
};

struct AmxBytes : Avx512Bytes {
    static constexpr std::int64_t kRows = kBlockSide;
    static constexpr std::int64_t kTiles = kBlockSide;  ///< rows that share scores and weights
    static constexpr std::int32_t kBias = 0;            ///< both sides are signed; offsets of q need sums

    static void begin() { _tile_loadconfig(&kWholeTiles); }
    static void end() { _tile_release(); }

    /// Zeros up to a whole tile: there the columns hold other keys.
    static void pad_row(std::int32_t* q, std::int64_t head_dim) {
        const std::int64_t used = round_up(head_dim, kLanes), whole = round_up(head_dim, kTileBytes);
        __builtin_memset(reinterpret_cast<std::byte*>(q) + used, 0, static_cast<std::size_t>(whole - used));
    }

    static void score_tiles(const QuantizedTile& tile, const GroupTile& keys) {
        const std::int64_t steps = (tile.head_dim + Scores::kDepth - 1) / Scores::kDepth;
        const std::int64_t panel = steps * kLanes;
        Alternating<FinishScores> blocks;
        stores_are_done();
        for (std::int64_t g = 0; g < keys.count; ++g) {
            const KeyGroup& group = keys.groups[g];
            for (std::int64_t at = group.begin; at < group.end; at += kBlockSide) {
                const std::int64_t key = group.first + at,
                                   width = aerogel::smaller(kBlockSide, group.end - at);
                const ByteOperands x = {static_cast<const std::int32_t*>(tile.q), row_steps<Scores>(),
                                        tile.map.keys + key / kLanes * panel, width > kTileSide ? panel : 0,
                                        tile.rows > kTileSide};
                clear_sums();
                for (std::int64_t step = 0; step < steps; step += kTileSide) multiply_scores(x, step);
                store_sums(blocks.next(), kBlockSide, x.both, x.right != 0);
                blocks.stored({&tile.map, key, tile.rows, width, tile.scores + g * kGroupKeys + at});
            }
        }
        blocks.flush();
    }

    static void value_tiles(const QuantizedTile& tile, const GroupTile& keys) {
        constexpr std::int64_t kSteps = kGroupKeys / Weights::kDepth;
        clear_edges(tile, keys);
        Alternating<FinishValues> blocks;
        stores_are_done();
        for (std::int64_t d = 0; d < tile.d_padded; d += kBlockSide) {
            const std::int64_t width = aerogel::smaller(kBlockSide, tile.d_padded - d);
            for (std::int64_t g = 0; g < keys.count; ++g) {
                const std::int64_t index = keys.groups[g].first / kGroupKeys;
                const ByteOperands x = {
                    static_cast<const std::int32_t*>(tile.p) + g * kSteps, row_steps<Weights>(),
                    tile.map.values + index * kSteps * tile.d_padded + d / kLanes * kTileInts,
                    width > kTileSide ? kTileInts : 0, tile.rows > kTileSide};
                clear_sums();
                multiply_values(x);
                store_sums(blocks.next(), kBlockSide, x.both, x.right != 0);
                blocks.stored({{tile.o + d, tile.d_padded, tile.head_dim - d,
                                tile.map.v_scale_of(index, tile.head_dim) + d, tile.rescale + g, g == 0},
                               tile.rows,
                               width});
            }
        }
        blocks.flush();
    }

  private:
    static constexpr std::int64_t kTileBytes = kTileSide * 4;

    static void multiply_scores(const ByteOperands& x, std::int64_t step) {
        const std::int32_t* columns = x.columns + step * kTileSide;
        _tile_loadd(4, x.rows + step, x.stride * 4);
        _tile_loadd(6, columns, 64);
        _tile_dpbssd(0, 4, 6);
        if (x.both) {
            _tile_loadd(5, x.rows + kTileSide * x.stride + step, x.stride * 4);
            _tile_dpbssd(2, 5, 6);
        }
        if (x.right == 0) return;
        _tile_loadd(7, columns + x.right, 64);
        _tile_dpbssd(1, 4, 7);
        if (x.both) _tile_dpbssd(3, 5, 7);
    }

    static void multiply_values(const ByteOperands& x) {
        _tile_loadd(4, x.rows, x.stride * 4);
        _tile_loadd(6, x.columns, 64);
        _tile_dpbusd(0, 4, 6);
        if (x.both) {
            _tile_loadd(5, x.rows + kTileSide * x.stride, x.stride * 4);
            _tile_dpbusd(2, 5, 6);
        }
        if (x.right == 0) return;
        _tile_loadd(7, x.columns + x.right, 64);
        _tile_dpbusd(1, 4, 7);
        if (x.both) _tile_dpbusd(3, 5, 7);
    }

    /// Weights of zero for the keys of a group that were not computed.
    static void clear_edges(const QuantizedTile& tile, const GroupTile& keys) {
        for (std::int64_t g = 0; g < keys.count; ++g) {
            const KeyGroup& group = keys.groups[g];
            if (group.begin == 0 && group.end == kGroupKeys) continue;
            for (std::int64_t row = 0; row < tile.rows; ++row) {
                std::byte* weights =
                    static_cast<std::byte*>(tile.p) + row * row_steps<Weights>() * 4 + g * kGroupKeys;
                for (std::int64_t i = 0; i < kGroupKeys; i += kAlign)
                    if (i < group.begin || i >= group.end) __builtin_memset(weights + i, 0, kAlign);
            }
        }
    }
};

}  // namespace

constexpr AttentionKernel amx::kInt8Attention = {.name = "cpu.amx.int8_attention",
                                                 .formats = kInt8Formats,
                                                 .why_not = takes_up_to_256,
                                                 .workspace_bytes = attend_quantized_workspace<AmxBytes>,
                                                 .run = attend_quantized<AmxBytes>,
                                                 .find_scales = find_scales,
                                                 .largest_weight = kWideWeight};

}  // namespace aerogel
