// Min-max int8: see the header for the formulas.
#include "quant/algorithms/minmax.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "quant/algorithms/model_dtype.h"

namespace aerogel {
namespace {

constexpr float kLargest = 127.0F;

// One row of a float matrix as float32.
void widen_row(const TensorView& weight, std::int64_t row, float* out) {
    const std::int64_t columns = weight.dim(1);
    if (weight.dtype == DType::f32) {
        const auto* in = static_cast<const float*>(weight.data) + row * columns;
        std::copy(in, in + columns, out);
    } else if (weight.dtype == DType::bf16) {
        const auto* in = static_cast<const BFloat16*>(weight.data) + row * columns;
        std::transform(in, in + columns, out, [](BFloat16 x) { return to_float(x); });
    } else {
        const auto* in = static_cast<const Float16*>(weight.data) + row * columns;
        std::transform(in, in + columns, out, [](Float16 x) { return to_float(x); });
    }
}

// Quantizes one row; returns false when it is not finite. The division is rounded to the weight's type
// before it is rounded to an integer, so |w| / scale can reach 127.5 in bfloat16: hence the clamp.
bool encode_row(DType dtype, std::span<const float> values, float& scale, std::int8_t* out) {
    float largest = 0.0F;
    bool finite = true;
    for (const float value : values) {
        largest = std::max(largest, std::fabs(value));
        finite = finite && std::isfinite(value);
    }
    if (!finite) return false;
    scale = std::max(round_to(dtype, largest / kLargest), kSmallestScale);
    for (std::size_t i = 0; i < values.size(); ++i) {
        const float q = std::nearbyint(round_to(dtype, values[i] / scale));
        out[i] = static_cast<std::int8_t>(std::clamp(q, -kLargest, kLargest));
    }
    return true;
}

// Sums of the rows' integers; exact in float32 up to 130,000 columns.
std::vector<float> row_sums(const QuantizedTensor& weight) {
    std::vector<float> sums;
    for (std::int64_t n = 0; n < weight.rows; ++n) {
        const auto* row = weight.data.as<std::int8_t>() + n * weight.columns;
        sums.push_back(static_cast<float>(std::accumulate(row, row + weight.columns, std::int64_t{0})));
    }
    return sums;
}

// A deq_scale that underflowed to 0 gives 0/0 for a bias of 0; that means no bias.
std::int32_t saturate_int32(float x) {
    if (std::isnan(x)) return 0;
    if (x >= 2147483648.0F) return INT32_MAX;
    if (x < -2147483648.0F) return INT32_MIN;
    return static_cast<std::int32_t>(x);
}

}  // namespace

QuantizedTensor quantize_minmax_int8(const TensorView& weight) {
    if (weight.shape.size() != 2 || !is_model_dtype(weight.dtype) || !weight.contiguous()) {
        throw InvalidArgument("[minmax] the weight must be a contiguous f32, bf16 or f16 matrix, got " +
                              weight.describe());
    }
    QuantizedTensor result;
    result.format = Format::int8;
    result.rows = weight.dim(0);
    result.columns = weight.dim(1);
    result.data = Tensor(DType::i8, weight.shape);
    result.scale = Tensor(DType::f32, {result.rows, 1});
    auto* data = result.data.as<std::int8_t>();
    auto* scale = result.scale.as<float>();
    std::atomic<std::int64_t> bad_row = -1;
    const auto columns = static_cast<std::size_t>(result.columns);
    std::vector<float> scratch(static_cast<std::size_t>(num_threads()) * columns);
    parallel_for(result.rows, [&](std::int64_t row, int worker) {
        float* values = scratch.data() + static_cast<std::size_t>(worker) * columns;
        widen_row(weight, row, values);
        const bool finite =
            encode_row(weight.dtype, {values, columns}, scale[row], data + row * result.columns);
        if (!finite) bad_row = row;
    });
    if (bad_row >= 0) {
        throw InvalidArgument("[minmax] the weight " + weight.describe() + " is not finite in row " +
                              std::to_string(bad_row));
    }
    return result;
}

InputScale asymmetric_int8(InputRange range, DType dtype) {
    const auto rounded = [dtype](float x) { return round_to(dtype, x); };
    const float low = rounded(std::min(range.min, 0.0F));
    const float high = rounded(std::max(range.max, 0.0F));
    InputScale result;
    result.scale = std::max(rounded(rounded(high / 255.0F) - rounded(low / 255.0F)), kSmallestScale);
    const float offset = std::nearbyint(rounded(-low / result.scale)) - 128.0F;
    result.offset = std::clamp(offset, -128.0F, 127.0F);
    return result;
}

std::vector<StaticScales> static_scales(const QuantizedTensor& weight, const Tensor& bias,
                                        const std::vector<InputScale>& inputs, DType dtype) {
    const std::vector<float> sums = row_sums(weight);
    std::vector<StaticScales> result;
    for (const InputScale& input : inputs) {
        StaticScales scales{input.scale, input.offset, Tensor(DType::i32, {weight.rows}),
                            Tensor(DType::f32, {weight.rows})};
        auto* quant_bias = scales.quant_bias.as<std::int32_t>();
        auto* deq_scale = scales.deq_scale.as<float>();
        for (std::int64_t n = 0; n < weight.rows; ++n) {
            deq_scale[n] = round_to(dtype, input.scale * weight.scale.as<float>()[n]);
            const float start = bias.defined() ? bias.as<float>()[n] / deq_scale[n] : 0.0F;
            const float correction = input.offset * sums[static_cast<std::size_t>(n)];
            quant_bias[n] = saturate_int32(std::nearbyint(start - correction));
        }
        result.push_back(std::move(scales));
    }
    return result;
}

}  // namespace aerogel
