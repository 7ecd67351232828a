// TMA, for primitives_sm90.h.
#pragma once

#include <array>
#include <cstdint>

#include "emulator/lane.h"

namespace aerogel::emulator {

struct TileAt {
    int rank;
    std::array<int, 5> at;  ///< elements, the first dimension first
};

void load_tile(void* to, const void* map, std::uint64_t* barrier, const TileAt& at, Where where);
/// A run of bytes, without a map: multiples of 16.
void load_run(void* to, const void* from, int bytes, std::uint64_t* barrier, Where where);

}  // namespace aerogel::emulator
