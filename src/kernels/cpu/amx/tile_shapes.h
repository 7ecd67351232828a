// The memory operand of ldtilecfg. Local to each including file.
#pragma once

#include <cstdint>

namespace aerogel {
namespace {

struct alignas(64) TileShapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

/// All eight tiles 16 rows of 64 bytes. Users keep it in static memory: GCC 12 believes that ldtilecfg reads
/// 8 bytes only and drops stores to a local one.
constexpr TileShapes whole_tiles() {
    TileShapes shapes;
    for (int t = 0; t < 8; ++t) {
        shapes.row_bytes[t] = 64;
        shapes.rows[t] = 16;
    }
    return shapes;
}

}  // namespace
}  // namespace aerogel
