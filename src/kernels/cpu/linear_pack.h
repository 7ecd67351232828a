// Weights in panels: the packed form of all fast linear kernels. A panel holds `columns` rows of w[n,k]
// side by side (columns of y): [ceil(n / columns)][steps][columns][values per step], zero-padded, and after
// the panels the arrays of the epilogue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/linear.h"

namespace aerogel {

/// Shape of the panels of one kernel.
struct PanelForm {
    std::int64_t columns;     ///< rows of w per panel
    std::int64_t values;      ///< consecutive k per step
    std::int64_t multiple;    ///< steps are padded to a multiple of this
    std::int64_t value_size;  ///< 4: float32 (any format), 2: bfloat16 as it is, 1: integers as int8
};

/// Where things lie in the packed bytes. Offsets are multiples of 64.
struct PackedPanels {
    PackedPanels(const LinearProblem& problem, const PanelForm& form);

    std::int64_t panels;
    std::int64_t steps;
    std::size_t panel_bytes;
    std::size_t scale;  ///< float of each column, integers only; padding columns have scale 0
    std::size_t sum;    ///< int32 sum over k of each column, integers only
    std::size_t bytes;
};

/// Fills the panels and the arrays behind them. Float weights (f32, bf16) with value_size 4, bf16 with 2,
/// else int8 or int4.
void pack_panels(const LinearProblem& problem, const PanelForm& form, const QuantizedTensor& weight,
                 std::byte* packed) noexcept;

/// The refusals of the fast kernels: float weights without quantized activations ...
std::string takes_float(const LinearProblem& problem);
/// ... those of bfloat16 alone ...
std::string takes_bf16_weights(const LinearProblem& problem);
/// ... integer weights with integer activations, one scale per row.
std::string takes_w8a8(const LinearProblem& problem);
/// ... those of four bits alone.
std::string takes_w4a8(const LinearProblem& problem);

}  // namespace aerogel
