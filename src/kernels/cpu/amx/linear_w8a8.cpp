// W8A8 with AMX: tdpbssd multiplies 16 x 64 by 64 x 16 signed bytes and sums exactly in int32. Panels as for
// VNNI, in whole tiles of 64 k; what x holds beyond k meets zero weights.
//
// A step of k, four products, is 64 cycles of the tile unit (tile_blocks.h) and reads 2 KiB of x and 2 KiB of
// w. Both from the second cache would be 64 bytes a cycle, all that it can give. So a block of k is 512
// bytes: its panel of w, 16 KiB, stays in the first cache for all rows of the task, and the second gives x
// and the sums, 2 KiB + 1 KiB per step. The sums cost four loads and four stores of tiles per eight steps, 96
// cycles of 512 that partly hide behind products. A task has up to 528 x 256 of y: x comes from further
// away once for 256 columns and w once for 528 rows, 6 bytes a cycle, and y goes there. Two blocks of x (528
// KiB), the sums and the lines of y (512 KiB each) fit the second cache, and all of it is asked for while
// products run. The epilogue, some 500 instructions per block of 32 x 32, runs while the next block is
// multiplied. Written from these counts; no machine with AMX was at hand.
#include "kernels/cpu/linear_w8a8.h"

#include "kernels/cpu/amx/kernels.h"
#include "kernels/cpu/amx/tile_blocks.h"
#include "kernels/cpu/avx512/linear_quantize.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileSteps = 16;                 ///< steps of four bytes per tile
constexpr std::int64_t kHalfRows = 16;                  ///< rows of a tile
constexpr std::int64_t kSumStride = kTileColumns * 4;   ///< bytes between two rows of sums
constexpr std::int64_t kStepStride = kTileColumns * 4;  ///< bytes between two steps of w
constexpr std::int64_t kRowStride = kRowSteps * 4;      ///< bytes between two rows of x

/// Tiles 0-3 sums, 4-5 x, 6-7 w; 0, 1, 4 for the upper rows and 2, 3, 5 for the lower ones.
constexpr TileShapes shapes_for(std::int64_t rows) {
    TileShapes shapes;
    const auto upper = static_cast<std::uint8_t>(rows < kHalfRows ? rows : kHalfRows);
    const auto lower = static_cast<std::uint8_t>(rows > kHalfRows ? rows - kHalfRows : 1);
    const std::uint8_t counts[8] = {upper, upper, lower, lower, upper, lower, kHalfRows, kHalfRows};
    for (int t = 0; t < 8; ++t) {
        shapes.row_bytes[t] = 64;
        shapes.rows[t] = counts[t];
    }
    return shapes;
}

/// Ready-made for every number of rows: shapes written just before ldtilecfg would stall it.
struct ShapeTable {
    TileShapes of[2 * kHalfRows + 1];
};

constexpr ShapeTable kShapes = [] {
    ShapeTable table = {};
    for (std::int64_t rows = 1; rows <= 2 * kHalfRows; ++rows) table.of[rows] = shapes_for(rows);
    return table;
}();

inline void multiply_upper(const Block& block) {
    auto* sums = static_cast<std::byte*>(block.sums);
    _tile_zero(0);
    _tile_zero(1);
    if (!block.first) {
        _tile_loadd(0, sums, kSumStride);
        _tile_loadd(1, sums + 64, kSumStride);
    }
    const auto* w = static_cast<const std::byte*>(block.w);
    for (std::int64_t s = 0; s < block.steps; s += kTileSteps, w += kTileSteps * kStepStride) {
        _tile_loadd(4, block.x + s, kRowStride);
        _tile_loadd(6, w, kStepStride);
        _tile_loadd(7, w + 64, kStepStride);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
    }
    _tile_stored(0, sums, kSumStride);
    _tile_stored(1, sums + 64, kSumStride);
}

inline void multiply_both(const Block& block) {
    auto* sums = static_cast<std::byte*>(block.sums);
    std::byte* lower = sums + kHalfRows * kSumStride;
    clear_sums();
    if (!block.first) {
        _tile_loadd(0, sums, kSumStride);
        _tile_loadd(1, sums + 64, kSumStride);
        _tile_loadd(2, lower, kSumStride);
        _tile_loadd(3, lower + 64, kSumStride);
    }
    const auto* w = static_cast<const std::byte*>(block.w);
    for (std::int64_t s = 0; s < block.steps; s += kTileSteps, w += kTileSteps * kStepStride) {
        block.ahead.portion(s / Prefetch::kSteps);
        block.ahead.portion(s / Prefetch::kSteps + 1);
        _tile_loadd(4, block.x + s, kRowStride);
        _tile_loadd(6, w, kStepStride);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, w + 64, kStepStride);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, block.x + kHalfRows * kRowSteps + s, kRowStride);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    store_sums(static_cast<std::int32_t*>(block.sums), kTileColumns, true);
}

struct Amx {
    static constexpr std::int64_t kRows = 2 * kHalfRows;
    static constexpr std::int64_t kColumns = kTileColumns;
    static constexpr std::int64_t kSteps = kBlockSteps / 2;
    static constexpr std::int64_t kIntegers = 1;
    static constexpr TaskSize kTask = {528, 256};
    static constexpr bool kFinishesLate = true;
    static constexpr bool kExpectsInput = true;
    static constexpr PanelForm kForm = {kTileColumns, 4, kTileSteps, 1};

    Amx() = default;
    Amx(const Amx&) = delete;
    Amx& operator=(const Amx&) = delete;
    ~Amx() { _tile_release(); }

    void multiply_integers(std::int64_t rows, const Block& block) {
        if (rows != configured_rows) _tile_loadconfig(&kShapes.of[rows]);
        configured_rows = rows;
        if (rows > kHalfRows) {
            multiply_both(block);
        } else {
            multiply_upper(block);
        }
    }

    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i) {
        quantize_bytes(problem, args, rows, i, 0);
    }

    static void rotate_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
        rotated_row(problem, args, i, out);
    }

    static void finish_integers(const Finish& finish, const Place& place, const std::int32_t* sums) {
        for (std::int64_t half = 0; half < kColumns; half += 16) {
            const ColumnFinish columns(finish, place.panel * kColumns + half);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m512i sum = _mm512_load_si512(sums + r * kColumns + half);
                columns.write(place.row + r, sum, finish.s_t[r]);
            }
        }
    }

    std::int64_t configured_rows = 0;  ///< of the tile registers, within one task
};

using Row = W8A8LinearRow<Amx>;

}  // namespace

constexpr LinearKernel amx::kW8A8 = {
    "cpu.amx.w8a8", takes_w8a8, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run, true};

}  // namespace aerogel
