// Alternating least squares for integer scales.
#include "quant/algorithms/ssz.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

// The least-squares scale for fixed integers; with an offset the line w = scale * q - scale * offset.
IntegerScale fit(std::span<const float> values, IntegerScale by, IntegerGrid grid, bool offset) {
    double q_sum = 0.0, w_sum = 0.0, qq = 0.0, wq = 0.0;
    for (const float value : values) {
        const double w = static_cast<double>(value);
        const double q = integer_code(w, by, grid);
        q_sum += q;
        w_sum += w;
        qq += q * q;
        wq += w * q;
    }
    if (!offset) return {qq > 0.0 ? wq / qq : 0.0, 0.0};
    const auto count = static_cast<double>(values.size());
    const double variance = qq - q_sum * q_sum / count;
    const double scale = variance > 0.0 ? (wq - q_sum * w_sum / count) / variance : 0.0;
    if (!(scale > 0.0)) return {0.0, by.offset};
    const double zero = std::nearbyint((q_sum - w_sum / scale) / count);
    return {scale, std::clamp(zero, grid.lowest, grid.largest)};
}

IntegerScale choose(std::span<const float> values, IntegerGrid grid, const ScaleChoice& how) {
    IntegerScale by = storable(minmax_scale_of(values, grid, how.offset), how.dtype);
    IntegerScale best = by;
    double smallest = integer_error(values, by, grid);
    for (int i = 0; i < static_cast<int>(how.parameter); ++i) {
        const IntegerScale next = fit(values, by, grid, how.offset);
        if (!(next.scale >= static_cast<double>(kSmallestScale))) break;
        if (next.scale == by.scale && next.offset == by.offset) break;
        by = next;
        const IntegerScale stored = storable(by, how.dtype);
        const double error = integer_error(values, stored, grid);
        if (error < smallest) {
            smallest = error;
            best = stored;
        }
    }
    return best;
}

}  // namespace

QuantizedTensor quantize_ssz(const TensorView& weight, const IntegerOptions& options, int iterations) {
    if (iterations < 0) {
        throw InvalidArgument(fmt::format("[ssz] iterations must be at least 0, got {}", iterations));
    }
    const Tensor values = float_weight("ssz", weight);
    return encode_integer_groups("ssz", values, options,
                                 {choose, weight.dtype, options.offset, static_cast<double>(iterations)});
}

}  // namespace aerogel
