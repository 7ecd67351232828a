// AMX peak loops: tile products of signed bytes and of bfloat16 into four accumulator tiles.
#include <immintrin.h>

#include "kernels/cpu/amx/kernels.h"
#include "kernels/cpu/amx/tile_shapes.h"

namespace aerogel {
namespace {

constexpr TileShapes kWholeTiles = whole_tiles();

struct Bytes {
    static void multiply() {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 6);
        _tile_dpbssd(2, 4, 6);
        _tile_dpbssd(3, 4, 6);
    }
};

struct Bf16 {
    static void multiply() {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 6);
    }
};

template <typename Products>
void run(std::int64_t rounds) noexcept {
    _tile_loadconfig(&kWholeTiles);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(6);
    for (std::int64_t round = 0; round < rounds; ++round) Products::multiply();
    _tile_release();
}

}  // namespace

constexpr PeakKernel amx::kPeakInt8 = {"cpu.amx.peak_int8", PeakKind::int8, 4.0 * 16 * 16 * 64 * 2,
                                       run<Bytes>};
constexpr PeakKernel amx::kPeakBf16 = {"cpu.amx.peak_bf16", PeakKind::bf16, 4.0 * 16 * 16 * 32 * 2,
                                       run<Bf16>};

}  // namespace aerogel
