// Which lane holds which element of a tile of mma.sync, m16n8 with 32 bytes of k ("PTX ISA", matrix
// fragments). Checked against CuTe's description by tests/emulator/test_cute.py.
#pragma once

#include <cstddef>

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

/// The lanes that give the scales of a row of A and of B to a product of MX numbers.
constexpr int lane_of_scale_a(int row) {
    return row % 8 * 4 + row / 8;
}
constexpr int lane_of_scale_b(int row) {
    return row * 4;
}

/// Of the sums [64, n] of a warp group: value v of thread t.
constexpr Place place_in_group(int t, int v) {
    return {t / 32 * 16 + t % 32 / 4 + v / 2 % 2 * 8, v / 4 * 8 + t % 4 * 2 + v % 2};
}

/// A tile of wgmma in shared memory: its descriptor's fields in bytes.
struct GroupTile {
    std::size_t begin, leading, stride;
};
/// Address before the swizzle of chunk c (16 bytes) of a row, k along the rows.
constexpr std::size_t chunk_along_k(const GroupTile& t, std::size_t row, std::size_t c) {
    return t.begin + row / 8 * t.stride + row % 8 * 128 + c * 16;
}
/// Of the eight rows 8 c and following at one k, where the rows of the matrix run along those of shared
/// memory.
constexpr std::size_t chunk_across_k(const GroupTile& t, std::size_t k, std::size_t c) {
    return t.begin + k / 8 * t.stride + k % 8 * 128 + c / 8 * t.leading + c % 8 * 16;
}

}  // namespace aerogel::emulator
