// One row per number format: the only place that knows how a format's bits lie. Everything above
// (kernels, schemes, files) asks this table.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// Columns [first, first + count) of a row.
struct Slice {
    std::int64_t row;
    std::int64_t first;
    std::int64_t count;
};

struct FormatRow {
    Format format;
    std::string_view name;
    DType storage;
    /// Writes the stored values of a slice, before any offset and scale, as float32 (exact) to out[count].
    void (*elements)(const QuantizedTensor& weight, const Slice& slice, float* out);
    /// The scale of a group of columns as float32. Null in the float formats.
    float (*scale)(const QuantizedTensor& weight, std::int64_t row, std::int64_t group);
    /// Empty, or what is wrong with the arrays (dtype, shape): "scale must be f32[8,1], got f32[4,1]".
    std::string (*problem)(const QuantizedTensor& weight);
    /// Integer formats: writes the stored integers of row `row`, columns [first, first + count), to out. Null
    /// in the others.
    void (*integers)(const QuantizedTensor& weight, const Slice& slice, std::int8_t* out) = nullptr;
};

/// Columns that share a scale (the last group of a row may have fewer), and scales per row.
struct Groups {
    explicit Groups(const QuantizedTensor& weight);
    std::int64_t width;
    std::int64_t count;
};

std::span<const FormatRow> formats();
const FormatRow& format_row(Format format);

/// Writes row `row` of the matrix that the quantized one stands for to out[columns]: float32, rounded after
/// each operation of (element - offset) * scale * dual_scale, in this order.
void decode_row(const QuantizedTensor& weight, std::int64_t row, float* out);

}  // namespace aerogel
