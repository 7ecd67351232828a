// Products with scales of blocks (MX) on sm_120, for primitives_sm120.h.
#pragma once

#include <cstdint>

#include "emulator/products.h"

namespace aerogel::emulator {

struct ScaledIn {
    ProductIn tiles;
    std::uint32_t scale_a, scale_b;
};
/// e4m3_e2m1: B has bytes with the number in bits 2 to 5.
enum class ScaledProduct { e4m3, e4m3_e2m1, e2m1 };

/// out = c + A B^T with a scale of E8M0 for each 32 k of a row of A and of B.
void multiply_scaled(ScaledProduct product, const ScaledIn& in, std::uint32_t* out);

}  // namespace aerogel::emulator
