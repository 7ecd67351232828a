// A quantized matrix: one struct that holds a number format and its arrays.
// layer: formats
#pragma once

#include <cstdint>
#include <string_view>

#include "aerogel/tensor.h"

namespace aerogel {

/// How numbers are stored. Each has one file in src/formats and one row in its table.
enum class Format : std::uint8_t { f32, bf16, int8, int4, fp8_e4m3, fp8_e5m2, mxfp8, mxfp4, mxfp4_dual };

/// "int8", "f32" ...
std::string_view to_string(Format format);

/// A weight matrix of `rows` x `columns` (out_features x in_features); g = k / group_size.
/// int8, int4:         w[n,k] = (data[n,k] - offset[n,g]) * scale[n,g]
/// fp8_e4m3, fp8_e5m2: w[n,k] = data[n,k] * scale[n,g]
/// mxfp8, mxfp4:       w[n,k] = data[n,k] * 2^(scale[n,g] - 127), group_size = 32
/// mxfp4_dual:         the same * dual_scale[n,k / dual_block]
struct QuantizedTensor {
    Format format = Format::f32;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    /// Columns that share a scale; 0 = the whole row.
    std::int64_t group_size = 0;
    /// Stored values; dtype and shape belong to the format (int8: i8[rows, columns]). Formats of four bits
    /// put two columns into a byte, the even one low: u8[rows, ceil(columns / 2)].
    Tensor data = {};
    /// f32 [rows, groups], MX formats u8 [rows, ceil(columns / 32)] (255 is not a scale); undefined for
    /// float formats.
    Tensor scale = {};
    /// f32 [rows, groups] integral values; undefined when symmetric.
    Tensor offset = {};
    /// f32 [rows, ceil(columns / dual_block)], mxfp4_dual only.
    Tensor dual_scale = {};
    /// Columns that share a dual scale, a multiple of 32.
    std::int64_t dual_block = 512;

    /// With all arrays on that device.
    QuantizedTensor to(Device device) const;
};

/// The float32 matrix [rows, columns] the quantized one stands for.
Tensor dequantize(const QuantizedTensor& weight);

}  // namespace aerogel
