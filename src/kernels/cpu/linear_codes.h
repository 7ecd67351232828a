// Weights of at most eight bits as codes in panels: the packed form of the kernels that turn them into floats
// while they multiply. How the bits lie is this form's own; the formats give elements and scales as floats.
// A panel holds `columns` rows of w[n,k] (columns of y), group after group, every group cut into chunks of
// columns * 4 bytes, the last one padded:
//   int8    four k per chunk:  [columns][4]            bytes
//   nibble  eight k per chunk: [columns][8]            numbers of one of 16 bytes, the even k in the low half
//   half    four k per chunk:  [2][columns][2]         the leading eight bits of a float16
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/linear.h"

namespace aerogel {

enum class Code : std::uint8_t {
    int8,         ///< signed bytes
    nibble,       ///< looked up among 16 signed bytes, times `unit`
    half,         ///< float16 without its low eight bits
    narrow_half,  ///< of float16(element / 256): the sign and all but the first of the exponent's bits
};

/// Where things lie in the packed bytes, at multiples of 64. Arrays of one value per group (or dual block)
/// and column are [panels][groups][columns].
struct CodePanels {
    CodePanels(const LinearProblem& problem, std::int64_t columns);

    Code code;
    bool powers;  ///< scales are bytes: 2^(byte - 127), 255 = NaN; else float32
    bool offsets;
    float unit;                ///< scales given as bytes are this times the power
    std::int64_t columns;      ///< of y per panel
    std::int64_t width;        ///< k per group
    std::int64_t groups;       ///< ceil(k / width)
    std::int64_t steps;        ///< k per chunk
    std::int64_t chunks;       ///< per group; the last group may have fewer
    std::int64_t dual_width;   ///< k per dual scale
    std::int64_t dual_blocks;  ///< 0 without dual scales
    std::int64_t panels;
    std::size_t panel_bytes;
    std::size_t scale;
    std::size_t offset;  ///< float32, with an offset only
    std::size_t dual;    ///< float32, with dual scales only
    std::size_t table;   ///< 16 signed bytes, nibbles only
    std::size_t bytes;
};

/// Fills all of it. A NaN among the elements of a group becomes a scale of NaN: the sums are the same.
void pack_codes(const LinearProblem& problem, std::int64_t columns, const QuantizedTensor& weight,
                std::byte* packed) noexcept;

/// Refuses float weights and integer activations ...
std::string takes_codes(const LinearProblem& problem);
/// ... all but integers on both sides in groups whose products float32 sums exactly and that divide a block
/// of k.
std::string takes_groups(const LinearProblem& problem);
/// ... and of these, all but groups of whole eights.
std::string takes_byte_groups(const LinearProblem& problem);
/// ... and of these, all but int4 weights.
std::string takes_nibble_groups(const LinearProblem& problem);

}  // namespace aerogel
