// int8 and int4 as grids of integers, for the algorithms that choose scales and roundings themselves.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// What an integer algorithm writes. offset = true: asymmetric.
struct IntegerOptions {
    Format format = Format::int8;  ///< int8 or int4
    std::int64_t group_size = 0;   ///< columns that share a scale; 0: the whole row
    bool offset = false;
};

/// The integers of a format: -128 .. 127 or -8 .. 7; `largest` is what minmax gives the largest magnitude.
struct IntegerGrid {
    double lowest = -128.0;
    double largest = 127.0;
};
/// Unsupported for other formats.
IntegerGrid integer_grid(std::string_view algorithm, Format format);

/// w = (q - offset) * scale.
struct IntegerScale {
    double scale = 1.0;
    double offset = 0.0;  ///< integral
};

/// Round half to even of w / scale + offset, kept in the grid.
double integer_code(double w, IntegerScale by, IntegerGrid grid);
/// Sum of (w - decoded)^2.
double integer_error(std::span<const float> values, IntegerScale by, IntegerGrid grid);
/// The minmax scale: symmetric, or with an offset over a range widened to hold 0. At least 2^-23.
IntegerScale minmax_scale_of(std::span<const float> values, IntegerGrid grid, bool offset);

/// weight f32 [n,k], checked; choose(group, grid, dtype, parameter) gives the scale of each group of columns.
/// The scale is then rounded to `dtype`, the type of the model's weights, as files hold it in that type.
struct ScaleChoice {
    IntegerScale (*choose)(std::span<const float> group, IntegerGrid grid, const ScaleChoice& how);
    DType dtype = DType::f32;
    bool offset = false;
    double parameter = 0.0;
};
QuantizedTensor encode_integer_groups(std::string_view algorithm, const Tensor& weight,
                                      const IntegerOptions& options, const ScaleChoice& how);

/// Symmetric or asymmetric minmax with groups: what the algorithms with data improve on.
QuantizedTensor quantize_minmax_integers(std::string_view algorithm, const Tensor& weight,
                                         const IntegerOptions& options, DType dtype);

/// `by` with a scale that is one of dtype's values and at least 2^-23.
IntegerScale storable(IntegerScale by, DType dtype);

}  // namespace aerogel
