// wgmma, for primitives_sm90.h.
#pragma once

#include <cstdint>

#include "emulator/lane.h"
#include "emulator/products.h"

namespace aerogel::emulator {

/// One lane's part of d[64,n] = A B^T. Sums of 4 bytes, n / 2 of them.
struct GroupProduct {
    Product product;
    int n;
    bool a_in_registers, b_transposed, accumulate;
    std::uint32_t a[4];            ///< registers
    std::uint64_t a_tile, b_tile;  ///< descriptors
    void* sums;
};

void group_fence(Where where);
void group_multiply(const GroupProduct& product, Where where);
void group_commit(Where where);
void group_wait(int newest, Where where);

}  // namespace aerogel::emulator
