// A block of 2 x 2 tiles of sums: 32 rows x 32 columns in tiles 0 to 3; tiles 4 and 5 hold rows, 6 and 7
// columns. Local to each including file.
//
// What bounds a block, on Sapphire Rapids: a product of tiles occupies the tile unit for 16 cycles, so a step
// of four products takes 64. Its four loads, 8 cycles each where the first cache has the lines, hide behind
// them; so do the vector instructions between two blocks, if they belong to another block than the one that
// is multiplied: the core runs some 500 micro-operations ahead, but no load gets past the store of a tile
// that it needs. Hence Alternating below.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/tile_shapes.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileSide = 16;              ///< rows of a tile, and columns of 4 bytes
constexpr std::int64_t kBlockSide = 2 * kTileSide;  ///< rows and columns of a block
constexpr std::int64_t kTileInts = kTileSide * kTileSide;

/// The compiler does not know that tile loads read memory.
inline void stores_are_done() {
    __asm__ volatile("" ::: "memory");
}

inline void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/// `stride` in elements of four bytes. Without `both` rows 16 and on are left out, without `right` columns.
template <typename Sum>
void store_sums(Sum* out, std::int64_t stride, bool both, bool right = true) {
    _tile_stored(0, out, stride * 4);
    if (right) _tile_stored(1, out + kTileSide, stride * 4);
    if (!both) return;
    _tile_stored(2, out + kTileSide * stride, stride * 4);
    if (right) _tile_stored(3, out + kTileSide * stride + kTileSide, stride * 4);
}

/// Two blocks of sums: while one is multiplied, the vectors finish the other. The caller multiplies and
/// stores into next(), then says how that block is to be finished; the one before it is finished then.
template <typename Finish>
class Alternating {
  public:
    std::int32_t* next() { return sums_[turn_]; }

    void stored(const Finish& finish) {
        flush();
        pending_ = finish;
        waits_ = true;
        turn_ = 1 - turn_;
    }

    void flush() {
        if (waits_) pending_(sums_[1 - turn_]);
        waits_ = false;
    }

  private:
    alignas(64) std::int32_t sums_[2][kBlockSide * kBlockSide];
    Finish pending_ = {};
    bool waits_ = false;
    int turn_ = 0;
};

}  // namespace
}  // namespace aerogel
