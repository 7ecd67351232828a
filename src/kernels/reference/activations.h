// Dynamic activation quantization in plain loops, one row at a time: what kernels/linear.h says of each kind,
// values first and nothing packed.
#pragma once

#include <cstdint>

#include "kernels/linear.h"

namespace aerogel {

/// A row of x' as codes: x' ~ values[p] * factors[p / width]. `values` of MX kinds have 2^e in them.
struct QuantizedRow {
    float* values;       ///< [k]; holds x' before
    float* factors;      ///< [activation_factors(problem)]
    std::int64_t width;  ///< columns per factor
};

/// Columns that share a factor: k, or 512 for mxfp4_dual.
std::int64_t activation_width(const LinearProblem& problem);
/// ceil(k / width).
std::int64_t activation_factors(const LinearProblem& problem);

/// Quantizes in place (any dynamic kind but per_token and per_token_int4). A row with a NaN or an infinity
/// gets factors of NaN and values of 0.
void quantize_row(const LinearProblem& problem, const QuantizedRow& row);

/// Integers of a row (per_token, per_token_int4); returns s_t, NaN for a row with a NaN or an infinity.
float quantize_row_to_integers(const LinearProblem& problem, const float* x, std::int8_t* out);

}  // namespace aerogel
