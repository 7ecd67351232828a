// What the formats with float scales share: rows cut into groups of columns, each with a scale and maybe
// an offset, and the largest magnitudes from which minmax scales come.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "formats/format.h"

namespace aerogel {

/// FormatRow::scale where scales are f32 [rows, groups].
float float_scale(const QuantizedTensor& weight, std::int64_t row, std::int64_t group);

/// "data must be i8[8,6], got nothing", or empty.
std::string array_problem(const char* name, const Tensor& array, DType dtype, const Shape& shape);

/// Empty, or what is wrong with group_size, data (its dtype and shape given), scale and offset.
std::string scaled_problem(const QuantizedTensor& weight, DType storage, const Shape& data);

/// The checks of every encoder: w is a contiguous matrix of finite f32. Errors start with [name].
void check_encodable(std::string_view name, const TensorView& weight);

/// The checks of encoders that are given scales: scaled_problem, and that scales are positive.
void check_scales(std::string_view name, const QuantizedTensor& encoded, const TensorView& weight,
                  const std::string& problem);

/// A tensor of that format with scales and offsets in place and room for data, its group size inferred from
/// the number of scales.
QuantizedTensor scaled_tensor(Format format, const TensorView& weight, const Tensor& scale,
                              const Tensor& offset);

/// max|w| of `count` values; not finite exactly when one of them is not.
float largest_magnitude(const float* values, std::int64_t count);

/// f32 [n,groups]: max|w| / largest, but at least `smallest`. group_size 0 = whole rows.
Tensor minmax_scale(const TensorView& weight, std::int64_t group_size, float largest, float smallest);

/// The smallest scale of integer formats, 2^-23.
constexpr float kSmallestIntegerScale = 0x1p-23F;

}  // namespace aerogel
