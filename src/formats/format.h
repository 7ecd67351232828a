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
struct IntegerSlice {
    std::int64_t row;
    std::int64_t first;
    std::int64_t count;
};

struct FormatRow {
    Format format;
    std::string_view name;
    DType storage;
    /// Writes row `row` of the matrix as float32 to out[columns].
    void (*decode_row)(const QuantizedTensor& weight, std::int64_t row, float* out);
    /// Empty, or what is wrong with the arrays (dtype, shape): "scale must be f32[8,1], got f32[4,1]".
    std::string (*problem)(const QuantizedTensor& weight);
    /// Integer formats: writes the stored integers of row `row`, columns [first, first + count), to out. Null
    /// in the others.
    void (*integers)(const QuantizedTensor& weight, const IntegerSlice& slice, std::int8_t* out) = nullptr;
};

std::span<const FormatRow> formats();
const FormatRow& format_row(Format format);

}  // namespace aerogel
