// What the MX formats share: blocks of 32 columns with a scale 2^(byte - 127), the last block of a row maybe
// shorter; and the elements' rounding as the exporters of such files do it: ties away from zero.
#pragma once

#include <cstdint>
#include <string>

#include "aerogel/mxfp4_scale.h"
#include "formats/format.h"

namespace aerogel {

constexpr std::int64_t kMxBlock = 32;

/// True for the formats with E8M0 scales.
constexpr bool is_mx(Format format) {
    return format == Format::mxfp8 || format == Format::mxfp4 || format == Format::mxfp4_dual;
}

/// ceil(columns / 32).
constexpr std::int64_t mx_blocks(std::int64_t columns) {
    return (columns + kMxBlock - 1) / kMxBlock;
}

constexpr std::int64_t kMxDualBlock = 512;  ///< columns that share a dual scale, where nothing else is said

/// ceil(columns / block).
constexpr std::int64_t mx_dual_blocks(std::int64_t columns, std::int64_t block = kMxDualBlock) {
    return (columns + block - 1) / block;
}

/// The block of a matrix whose rows have so many dual scales: 512 where that fits (the last block may be
/// shorter), else what divides the columns; 0 when nothing does, or it is no multiple of 32.
constexpr std::int64_t mx_dual_block(std::int64_t columns, std::int64_t blocks) {
    if (blocks == mx_dual_blocks(columns)) return kMxDualBlock;
    if (blocks < 1 || columns % blocks != 0 || columns / blocks % kMxBlock != 0) return 0;
    return columns / blocks;
}

/// A magnitude to the nearest E4M3 (at most 448) or E2M1 (at most 6) one, ties away from zero.
float nearest_e4m3(float magnitude);
float nearest_e2m1(float magnitude);

/// floor(log2(largest)) - largest_exponent, at least -127: the power of two with which a block of activations
/// is divided, as devices do it; `largest` is its largest magnitude, `largest_exponent` that of an element.
int mx_exponent(float largest, int largest_exponent);

/// The e of Mxfp4Scale for a block whose largest magnitude is this (finite), at least -127.
int mxfp4_exponent_of(float largest, const Mxfp4Scale& scale);

/// FormatRow::scale of the MX formats.
float mx_scale(const QuantizedTensor& weight, std::int64_t row, std::int64_t group);

/// Empty, or what is wrong with group_size, data (its dtype and shape given) and scale.
std::string mx_problem(const QuantizedTensor& weight, DType storage, const Shape& data);

/// A tensor of an MX format with room for data (zeros), scales and, for mxfp4_dual, dual scales.
QuantizedTensor mx_tensor(Format format, std::int64_t rows, std::int64_t columns);

}  // namespace aerogel
