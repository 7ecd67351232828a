// int4 in two's complement, two columns per byte, scaled like int8.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kInt4Format;

/// Encodes w f32[n,k] with given scale f32[n,groups] (and offset, may be undefined):
/// q = clamp(round_half_even(w/scale + offset), -8, 7).
QuantizedTensor encode_int4(const TensorView& weight, const Tensor& scale, const Tensor& offset);

/// Symmetric minmax: scale = max|w| / 7 per row (group_size 0) or group of columns, at least 2^-23.
QuantizedTensor encode_int4(const TensorView& weight, std::int64_t group_size);

/// How files hold int4: i8[n,k] with one value per byte; two columns per byte, i8 or u8 [n, ceil(k/2)]; or
/// two rows per byte, i8 or u8 [n/2, k]. The even column or row is in the low nibble.
enum class Int4Layout : std::uint8_t { bytes, column_pairs, row_pairs };

/// The data u8[n, ceil(k/2)] of a matrix in any of these layouts. Throws InvalidArgument on other arrays and
/// on bytes outside -8 .. 7.
Tensor read_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns);

/// Columns of a matrix of `rows` rows where only its array is known: pairs of columns have the shape of half
/// as many bytes, so i8[rows,x] counts as bytes when all values are in -8 .. 7. InvalidArgument on other
/// shapes.
std::int64_t int4_columns(const Tensor& stored, std::int64_t rows);

/// The array i8 of a matrix in a layout. InvalidArgument where columns or rows make no pairs.
Tensor write_int4(const QuantizedTensor& weight, Int4Layout layout);

}  // namespace aerogel
