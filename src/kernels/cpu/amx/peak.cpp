// AMX peak loop: signed int8 tile products into four accumulator tiles.
#include <immintrin.h>

#include "kernels/peak.h"

namespace aerogel {
namespace {

// Palette 1: every tile 16 rows of 64 bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};  // eight tiles; the rest stays 0
};

// In static memory: GCC 12 believes that ldtilecfg reads 8 bytes only and drops stores to a local one.
const TileConfig kConfig;

void run_int8(std::int64_t rounds) noexcept {
    _tile_loadconfig(&kConfig);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(6);
    for (std::int64_t round = 0; round < rounds; ++round) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 6);
        _tile_dpbssd(2, 4, 6);
        _tile_dpbssd(3, 4, 6);
    }
    _tile_release();
}

}  // namespace

const PeakKernel cpu::kAmxPeakInt8 = {"cpu.amx.peak_int8", CpuLevel::amx, PeakKind::int8,
                                      4.0 * 16 * 16 * 64 * 2, run_int8};

}  // namespace aerogel
