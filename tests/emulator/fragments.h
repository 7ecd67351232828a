// Which lane holds which element of a tile of mma.sync, m16n8 with 32 bytes of k ("PTX ISA", matrix
// fragments). Checked against CuTe's description by tests/emulator/cute_test.cpp.
#pragma once

namespace aerogel::emulator {

struct Place {
    int row, column;
};

/// Element number i of register r of A [16, 8 per]; per elements in a register: 2 of 16 bits, 4 of 8, 8 of 4.
constexpr Place place_in_a(int per, int lane_id, int r, int i) {
    return {lane_id / 4 + 8 * (r & 1), lane_id % 4 * per + i + 4 * per * (r >> 1)};
}
/// Of B, as [8, 8 per]: a row is a column of the product.
constexpr Place place_in_b(int per, int lane_id, int r, int i) {
    return {lane_id / 4, lane_id % 4 * per + i + 4 * per * r};
}
/// Of C [16, 8].
constexpr Place place_in_c(int lane_id, int r) {
    return {lane_id / 4 + 8 * (r >> 1), lane_id % 4 * 2 + (r & 1)};
}

}  // namespace aerogel::emulator
