// A quantized matrix: one struct that holds a number format and its arrays.
// layer: formats
#pragma once

#include <cstdint>
#include <string_view>

#include "aerogel/tensor.h"

namespace aerogel {

/// How numbers are stored. Each has one file in src/formats and one row in its table.
enum class Format : std::uint8_t { f32, bf16, int8 };

/// "int8", "f32" ...
std::string_view to_string(Format format);

/// A weight matrix of `rows` x `columns` (out_features x in_features).
/// int8: w[n,k] = (data[n,k] - offset[n,g]) * scale[n,g], g = k / group_size.
struct QuantizedTensor {
    Format format = Format::f32;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    /// Columns that share a scale; 0 = the whole row.
    std::int64_t group_size = 0;
    /// Stored values; dtype and shape belong to the format (int8: i8[rows, columns]).
    Tensor data;
    /// f32 [rows, groups]; undefined for float formats.
    Tensor scale;
    /// f32 [rows, groups] integral values; undefined when symmetric.
    Tensor offset;
};

/// The float32 matrix [rows, columns] the quantized one stands for.
Tensor dequantize(const QuantizedTensor& weight);

}  // namespace aerogel
