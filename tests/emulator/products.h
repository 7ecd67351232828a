// Meetings of a warp that compute, for primitives.h: the products and the loads of the tensor cores.
#pragma once

#include <cstdint>

#include "emulator/lane.h"

namespace aerogel::emulator {

/// What a lane brings to m16n8: accumulators c, registers of A and B.
struct ProductIn {
    std::uint32_t c[4], a[4], b[2];
};
enum class Product { s8, u8s8, bf16, f16, e4m3, e5m2 };

/// out = c + A B^T: int32 for s8 and u8s8 (wraps), float else (exact products, one rounding).
void multiply(Product product, const ProductIn& in, std::uint32_t* out, Where where);

/// ldmatrix: count (1, 2 or 4) 8 x 8 tiles of 16 bits; lane l gives the address of row l % 8 of tile l / 8.
void load_matrices(std::uint32_t* out, const void* row, int count, bool transposed, Where where);

}  // namespace aerogel::emulator
