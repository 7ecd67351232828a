// Arguments of the kernels for products of MX numbers on sm_120: plain data, the same on the host and on the
// device. E4M3 lies in slabs (linear_args.h), a byte each. E2M1 lies in nibbles: of eight rows, chunk after
// chunk of 32 columns, 16 bytes for each row, columns c and c + 16 of a chunk in one byte. Beside each slab
// of 128 columns a word for every row: the exponents (E8M0) of its four blocks of 32.
#pragma once

#include "kernels/cuda/linear_args.h"

namespace aerogel::cuda {

/// What is multiplied: x and w of E4M3, w of E2M1, both of E2M1.
enum class MxKind : std::int32_t { fp8, fp8_fp4, fp4 };

constexpr int mx_x_bytes(MxKind kind) {
    return kind == MxKind::fp4 ? 64 : kSlabBytes;
}
constexpr int mx_w_bytes(MxKind kind) {
    return kind == MxKind::fp8 ? kSlabBytes : 64;
}

/// x [m,k] to codes, exponents, and s_t, the power of two that a row's exponents leave out.
struct MxQuantizeArgs {
    QuantizeArgs row;      ///< kind mxfp8, which gives E4M3, or mxfp4, which gives E2M1
    std::uint32_t* words;  ///< [slabs][row.rows]
};

struct MxGemmArgs {
    GemmArgs gemm;
    const std::uint32_t *x_words, *w_words;  ///< [slabs][x_rows], [slabs][w_rows]
};

constexpr int mx_stage_bytes(const TileShape& tile, MxKind kind) {
    return tile.rows * (mx_x_bytes(kind) + 4) + tile.columns * (mx_w_bytes(kind) + 4);
}
constexpr int mx_shared_bytes(const TileShape& tile, MxKind kind) {
    return tile.stages * mx_stage_bytes(tile, kind);
}

}  // namespace aerogel::cuda
