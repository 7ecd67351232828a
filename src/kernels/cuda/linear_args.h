// Arguments of the linear kernels: plain data, the same on the host and on the device.
//
// Both operands lie in slabs: a slab is 128 bytes of k of all rows, so any tile of rows of a slab is one run
// of bytes, which a kernel copies to shared memory as it is. Rows of x are 128 bytes, the 16-byte chunk c of
// row r at c ^ (r % 8): what ldmatrix reads without bank conflicts, and the 128-byte swizzle of wgmma. Rows
// of w as well, or of 64 or 32 bytes where elements of w have half or a quarter of the bits; then 8 rows lie
// together, chunk after chunk (Marlin's way: Frantar et al., 2024). Rows of w are reordered within 32 so that
// a thread of mma.sync or wgmma holds eight neighbours of y.
#pragma once

#include <cstdint>

namespace aerogel::cuda {

constexpr int kSlabBytes = 128;

/// Types of x and y.
enum class Real : std::int32_t { f32, bf16, f16 };

enum class Quantize : std::int32_t {
    integers,        ///< per token, int8 or int4
    fixed_integers,  ///< per tensor, int8
    parts,           ///< none: bf16 parts whose sum is x'
    fp8,             ///< per token, E4M3 as bf16
    fp8_codes,       ///< per token, E4M3 as it is
    mxfp8,           ///< as bf16
    mxfp4,           ///< as bf16
    mxfp4_dual,      ///< parts of what the codes stand for
};

/// Shared memory of the quantizer: a word per warp, then x' of the row where it fits.
constexpr int kQuantizeThreads = 256, kQuantizeWords = 32, kHeldBytes = 48 * 1024 - kQuantizeWords * 4;

/// x [m,k] to slabs, and s_t.
struct QuantizeArgs {
    const void* x;
    const float* mul_scale;            ///< [k] or null
    const std::int32_t* column_order;  ///< [k] or null: column i of x' comes from that one of x
    unsigned char* slabs;
    float* s_t;  ///< [m]: the factor of a row, a power of two where the kind has none; not of fixed_integers
    std::int64_t x_stride;
    std::int64_t rows;   ///< of a slab
    std::int64_t plane;  ///< bytes between two parts
    std::int32_t k;
    std::int32_t width;         ///< columns of a slab's row: of int8, or 64 of bf16, times the slabs
    std::int32_t group;         ///< columns that keep together; 0: a column has its own place
    std::int32_t padded_group;  ///< columns from one group to the next in the slabs
    Real x_type;
    Quantize kind;
    std::int32_t aligned;  ///< x, mul_scale and the rows of x at 16 bytes
    std::int32_t parts;    ///< 1 to 3
    std::int32_t finite;   ///< one more plane: the first part, 0 where it is not finite
    float top;             ///< 127 or 7
    float input_scale, input_offset;
    std::int32_t rotation;  ///< columns that are rotated together, up to kMostRotated; 0: none
    std::int32_t convrot;
    float rotation_factor;          ///< 1 / sqrt(rotation)
    const float* rotation_factors;  ///< [k] or null; mul_scale is null then
};

/// What a warp has of a row at once.
constexpr int kMostRotated = 256;

/// y [m,n] of slabs.
struct GemmArgs {
    const unsigned char* x;
    const unsigned char* w;
    const float* s_t;     ///< [m] or null: 1
    const float* scale;   ///< of groups: [groups][w_rows]; else [n]
    const float* offset;  ///< of groups: [groups][w_rows], or null
    const void* add;      ///< bias f32 [n] or null; fixed: quant_bias int32 [n]
    void* y;
    std::int64_t y_stride;
    std::int64_t m, n;
    std::int64_t x_rows, w_rows;    ///< of a slab
    std::int64_t x_plane, w_plane;  ///< bytes between two parts
    std::uint64_t pair_list;        ///< parts multiplied with each other: 8 bits each, x's in the low half
    std::int32_t pairs;
    std::int32_t slabs;
    std::int32_t groups;
    std::int32_t group_steps;  ///< 32 bytes of k of x each
    std::int32_t wide;         ///< integer sums of a group may exceed 2^22
    std::int32_t fixed;        ///< y = float(sum + add) * scale
    std::int32_t e5m2;         ///< of the two kinds of eight bits
    std::int32_t row_tiles, column_tiles;
    Real y_type;
    std::int32_t y_aligned;  ///< y and its rows at 16 bytes
};

/// A block's part of y, and how its warps share it.
struct TileShape {
    int rows, columns;            ///< of a block
    int warp_rows, warp_columns;  ///< of a warp
    int split;                    ///< warps that share k
    int stages;                   ///< of shared memory
    int threads;
};
constexpr TileShape kTileL = {256, 128, 64, 64, 1, 3, 256};
constexpr TileShape kTileM = {128, 128, 64, 32, 1, 3, 256};
constexpr TileShape kTileS = {64, 64, 32, 32, 1, 4, 128};
constexpr TileShape kTileT = {16, 32, 16, 32, 4, 6, 128};

/// Of Hopper: a warp group feeds two others, which share the block's rows, or its columns.
struct HopperShape {
    int rows, columns;  ///< of a block
    int stages;
    int stage_bytes;
    int shared_bytes;  ///< the stages, two times scale and addend of the columns, the barriers
    int threads;
};
constexpr HopperShape hopper_shape(int columns, int stages, int row_bytes = kSlabBytes) {
    const int stage = 128 * kSlabBytes + columns * row_bytes;
    return {128, columns, stages, stage, stages * stage + columns * 16 + stages * 16, 384};
}
constexpr HopperShape kHopperWide = hopper_shape(256, 4);
constexpr HopperShape kHopperNarrow = hopper_shape(128, 6);  // of fp8, whose sums need twice the registers
// Of weights with 64 and 32 bytes in a slab's row, which become operands in registers.
constexpr HopperShape kHopperHalves = hopper_shape(256, 6, 64);
constexpr HopperShape kHopperQuarters = hopper_shape(256, 8, 32);
/// Steps of a group of integers: their products are one chain.
constexpr int kMostHopperGroup = 4;

/// The row of a slab of w for column `j` of y, and the column for a row: the same.
constexpr std::int64_t neighbour_order(std::int64_t j) {
    return (j & ~std::int64_t{31}) | (j >> 1 & 3) << 3 | (j >> 3 & 3) << 1 | (j & 1);
}

}  // namespace aerogel::cuda
