// Dynamic activation quantization; see the header.
#include "kernels/reference/activations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "formats/mx.h"

namespace aerogel {
namespace {

// max|x|, NaN when any value is not finite.
float largest_of(const float* x, std::int64_t count) {
    float largest = 0;
    for (std::int64_t p = 0; p < count; ++p) {
        if (!std::isfinite(x[p])) return std::numeric_limits<float>::quiet_NaN();
        largest = std::max(largest, std::abs(x[p]));
    }
    return largest;
}

float normal_or_one(float scale) {
    return std::isnormal(scale) ? scale : 1.0F;
}

float to_e4m3(float x) {
    return to_float(to_float8_e4m3(x, true));
}

float to_e2m1(float x) {
    return to_float(to_float4_e2m1(x));
}

// Blocks of 32 with a power of two; `largest_exponent` is that of the largest element.
void quantize_mx(float* x, std::int64_t count, int largest_exponent, float (*round)(float)) {
    for (std::int64_t first = 0; first < count; first += kMxBlock) {
        const std::int64_t end = std::min(first + kMxBlock, count);
        const float largest = largest_of(x + first, end - first);
        const int exponent = mx_exponent(largest, largest_exponent);
        for (std::int64_t p = first; p < end; ++p) {
            x[p] = std::ldexp(round(std::ldexp(x[p], -exponent)), exponent);
        }
    }
}

void quantize_mxfp4(float* x, std::int64_t count) {
    quantize_mx(x, count, 2, to_e2m1);
}

void quantize_fp8(const QuantizedRow& row, std::int64_t k) {
    const float scale = row.factors[0] = normal_or_one(largest_of(row.values, k) / 448.0F);
    for (std::int64_t p = 0; p < k; ++p) row.values[p] = to_e4m3(row.values[p] / scale);
}

void quantize_dual(const LinearProblem& problem, const QuantizedRow& row) {
    for (std::int64_t first = 0; first < problem.k; first += kMxDualBlock) {
        const std::int64_t count = std::min(kMxDualBlock, problem.k - first);
        float* x = row.values + first;
        const float scale = normal_or_one(largest_of(x, count) / 6.0F);
        row.factors[first / kMxDualBlock] = scale;
        for (std::int64_t p = 0; p < count; ++p) {
            x[p] /= scale;
            if (problem.x == DType::bf16) x[p] = to_float(to_bfloat16(x[p]));
            if (problem.x == DType::f16) x[p] = to_float(to_float16(x[p]));
        }
        quantize_mxfp4(x, count);
    }
}

}  // namespace

std::int64_t activation_width(const LinearProblem& problem) {
    return problem.activation == Activation::mxfp4_dual ? kMxDualBlock : std::max<std::int64_t>(problem.k, 1);
}

std::int64_t activation_factors(const LinearProblem& problem) {
    const std::int64_t width = activation_width(problem);
    return (problem.k + width - 1) / width;
}

void quantize_row(const LinearProblem& problem, const QuantizedRow& row) {
    const std::int64_t factors = activation_factors(problem);
    if (std::isnan(largest_of(row.values, problem.k))) {
        std::fill(row.values, row.values + problem.k, 0.0F);
        std::fill(row.factors, row.factors + factors, std::numeric_limits<float>::quiet_NaN());
        return;
    }
    std::fill(row.factors, row.factors + factors, 1.0F);
    switch (problem.activation) {
        case Activation::per_token_fp8:
            return quantize_fp8(row, problem.k);
        case Activation::mxfp8:
            return quantize_mx(row.values, problem.k, 8, to_e4m3);
        case Activation::mxfp4:
            return quantize_mxfp4(row.values, problem.k);
        case Activation::mxfp4_dual:
            return quantize_dual(problem, row);
        default:
            return;
    }
}

float quantize_row_to_integers(const LinearProblem& problem, const float* x, std::int8_t* out) {
    const float largest = largest_of(x, problem.k);
    if (std::isnan(largest)) {
        std::fill(out, out + problem.k, std::int8_t{0});
        return largest;
    }
    const float top = problem.activation == Activation::per_token_int4 ? 7.0F : 127.0F;
    const float scale = largest / top == 0 ? 1.0F : largest / top;
    for (std::int64_t p = 0; p < problem.k; ++p) {
        out[p] = static_cast<std::int8_t>(std::clamp(std::nearbyint(x[p] / scale), -top - 1.0F, top));
    }
    return scale;
}

}  // namespace aerogel
