// Element-wise operations: a warp per row where a row is summed, else a thread per element. All are bound by
// memory. Sums are float32 in the order of a tree over the lanes; double where kernels/elementwise.h says so.
#pragma once

#include <cmath>

#include "kernels/cuda/elementwise_args.h"
#include "kernels/cuda/primitives/gpu.h"

namespace aerogel::cuda {

__device__ __forceinline__ std::int64_t thread_number() {
    return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ std::int64_t warp_number() {
    return thread_number() / 32;
}
__device__ __forceinline__ int lane_number() {
    return static_cast<int>(threadIdx.x % 32);
}

template <typename T>
__device__ __forceinline__ T sum_of_warp(T value) {
    for (int distance = 16; distance > 0; distance /= 2) value += gpu::shfl_xor(value, distance);
    return value;
}

/// NaN where one is among them.
__device__ __forceinline__ float largest_of_warp(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = gpu::shfl_xor(value, distance);
        value = value > other || value != value ? value : other;
    }
    return value;
}

/// Element `at` of x goes to element `to` of y; of one type as it is.
template <DType kFrom, DType kTo>
__device__ __forceinline__ void copy_element(const void* x, std::int64_t at, void* y, std::int64_t to) {
    const auto* words = static_cast<const std::uint32_t*>(x);
    const auto* halves = static_cast<const std::uint16_t*>(x);
    if constexpr (kFrom == kTo) {
        if constexpr (kFrom == DType::f32) static_cast<std::uint32_t*>(y)[to] = words[at];
        if constexpr (kFrom != DType::f32) static_cast<std::uint16_t*>(y)[to] = halves[at];
    } else {
        float value = 0.0F;
        if constexpr (kFrom == DType::f32) value = static_cast<const float*>(x)[at];
        if constexpr (kFrom == DType::bf16) value = gpu::float_of_bf16(halves[at]);
        if constexpr (kFrom == DType::f16) value = gpu::float_of_f16(halves[at]);
        if constexpr (kTo == DType::f32) static_cast<float*>(y)[to] = value;
        if constexpr (kTo == DType::bf16)
            static_cast<std::uint16_t*>(y)[to] = static_cast<std::uint16_t>(gpu::pack_bf16(value, 0.0F));
        if constexpr (kTo == DType::f16)
            static_cast<std::uint16_t*>(y)[to] = static_cast<std::uint16_t>(gpu::pack_f16(value, 0.0F));
    }
}

__device__ __forceinline__ float silu(float x) {
    return x / (1.0F + expf(-x));
}

/// erfc at -x / sqrt(2), of which float32 holds the greater part only: what is left enters by the derivative.
__device__ __forceinline__ float gelu_erf(float x) {
    constexpr float kHigh = 0.70710677F, kLow = 1.21016175e-08F;  // 1 / sqrt(2)
    const float z = -x * kHigh;
    const float left = __fmaf_rn(-x, kHigh, -z) - x * kLow;
    const float erfc = erfcf(z);
    const float slope = 1.1283792F * expf(-z * z);
    return 0.5F * x * (left == left ? __fmaf_rn(-left, slope, erfc) : erfc);
}

__device__ __forceinline__ float activate(ActivationFunction function, float x) {
    switch (function) {
        case ActivationFunction::gelu_tanh: {
            const float inner = 0.79788456F * (x + 0.044715F * x * x * x);
            return x / (1.0F + expf(-2.0F * inner));  // (1 + tanh) / 2 without cancellation
        }
        case ActivationFunction::gelu_erf:
            return gelu_erf(x);
        case ActivationFunction::tanh:
            return tanhf(x);
        case ActivationFunction::silu:
            break;
    }
    return silu(x);
}

__device__ __forceinline__ void norm(const NormArgs& a) {
    const std::int64_t row = warp_number();
    if (row >= a.rows) return;
    const float* x = a.x + row * a.x_stride;
    float* y = a.y + row * a.y_stride;
    const std::int64_t modulation = row / a.rows_per_modulation * a.modulation_stride;
    const auto n = static_cast<float>(a.columns);
    float mean = 0.0F;
    if (a.kind == NormKind::layer) {
        for (std::int64_t i = lane_number(); i < a.columns; i += 32) mean += x[i];
        mean = sum_of_warp(mean) / n;
    }
    // The mean misses by units of the numbers' size; what it left is found among the differences.
    float left = 0.0F;
    if (a.kind == NormKind::layer) {
        for (std::int64_t i = lane_number(); i < a.columns; i += 32) left += x[i] - mean;
        left = sum_of_warp(left) / n;
    }
    float variance = 0.0F;
    for (std::int64_t i = lane_number(); i < a.columns; i += 32) {
        const float distance = x[i] - mean - left;
        variance += distance * distance;
    }
    const float factor = 1.0F / sqrtf(sum_of_warp(variance) / n + a.epsilon);
    for (std::int64_t i = lane_number(); i < a.columns; i += 32) {
        float value = (x[i] - mean - left) * factor;
        if (a.weight != nullptr) value *= a.weight[i];
        if (a.bias != nullptr) value += a.bias[i];
        if (a.scale != nullptr) value *= 1.0F + a.scale[modulation + i];
        if (a.shift != nullptr) value += a.shift[modulation + i];
        y[i] = a.silu ? silu(value) : value;
    }
}

__device__ __forceinline__ void activation(const ActivationArgs& a) {
    const std::int64_t i = thread_number();
    if (i < a.count) a.y[i] = activate(a.function, a.x[i]);
}

__device__ __forceinline__ void gated(const GatedArgs& a) {
    const std::int64_t i = thread_number();
    if (i >= a.rows * a.columns) return;
    const std::int64_t row = i / a.columns, column = i % a.columns;
    const float open = activate(a.function, a.gate[row * a.gate_stride + column]);
    a.y[row * a.y_stride + column] = open * a.x[row * a.x_stride + column];
}

__device__ __forceinline__ void rope(const RopeArgs& a) {
    const std::int64_t half = a.head_dim / 2, pairs = a.heads * half, at = thread_number();
    if (at >= a.rows * pairs) return;
    const std::int64_t row = at / pairs, head = at % pairs / half, i = at % half;
    const bool halves = a.pairs == RopePairs::halves;
    float* x = a.x + row * a.x_stride + head * a.head_dim;
    float& first = x[halves ? i : 2 * i];
    float& second = x[halves ? i + half : 2 * i + 1];
    const float cos = a.cos[row % a.tokens * half + i], sin = a.sin[row % a.tokens * half + i];
    const float p = first, q = second;
    first = __fmaf_rn(p, cos, -(q * sin));
    second = __fmaf_rn(p, sin, q * cos);
}

__device__ __forceinline__ void residual(const ResidualArgs& a) {
    const std::int64_t i = thread_number();
    if (i >= a.rows * a.columns) return;
    const std::int64_t row = i / a.columns, column = i % a.columns;
    float& x = a.x[row * a.x_stride + column];
    const float y = a.y[row * a.y_stride + column];
    x = a.gate == nullptr ? x + y : __fmaf_rn(y, a.gate[row / a.rows_per_gate * a.gate_stride + column], x);
}

template <typename Wide>
__device__ __forceinline__ void combine(const CombineTerms& a) {
    const std::int64_t i = thread_number();
    if (i >= a.count) return;
    Wide sum = static_cast<Wide>(a.factor[0]) * static_cast<Wide>(a.x[0][i]);
#pragma unroll
    for (int term = 1; term < static_cast<int>(CombineArgs::kMostTerms); ++term)
        if (term < a.terms) sum += static_cast<Wide>(a.factor[term]) * static_cast<Wide>(a.x[term][i]);
    a.y[i] = static_cast<float>(sum);
}

template <DType kFrom, DType kTo>
__device__ __forceinline__ void copy(const CopyAxesArgs& a) {
    std::int64_t at = thread_number(), x = 0, y = 0;
    if (at >= a.count) return;
    for (int axis = a.axes - 1; axis > 0; --axis) {
        const std::int64_t index = at % a.shape[axis];
        at /= a.shape[axis];
        x += index * a.x_strides[axis];
        y += index * a.y_strides[axis];
    }
    x += at * a.x_strides[0];
    y += at * a.y_strides[0];
    copy_element<kFrom, kTo>(a.x, x, a.y, y);
}

__device__ __forceinline__ void match_norms(const MatchNormsArgs& a) {
    const std::int64_t row = warp_number();
    if (row >= a.rows) return;
    float* x = a.x + row * a.columns;
    const float* like = a.like + row * a.columns;
    double own = 0.0, wanted = 0.0;
    for (std::int64_t i = lane_number(); i < a.columns; i += 32) {
        own += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        wanted += static_cast<double>(like[i]) * static_cast<double>(like[i]);
    }
    own = sqrt(sum_of_warp(own));
    wanted = sqrt(sum_of_warp(wanted));
    if (own == 0.0) return;
    for (std::int64_t i = lane_number(); i < a.columns; i += 32)
        x[i] = static_cast<float>(static_cast<double>(x[i]) * (wanted / own));
}

__device__ __forceinline__ void all_finite(const AllFiniteArgs& a) {
    const std::int64_t i = thread_number();
    if (i < a.call.count && !(fabsf(a.call.x[i]) <= 3.4028234664e38F)) atomicExch(a.found, 1);
}

/// One thread per channel and chunk: mean and sum of squared distances of its rows, found in two passes.
__device__ __forceinline__ void group_norm_parts(const GroupNormSteps& a) {
    const std::int64_t channels = a.call.channels, at = thread_number();
    if (at >= group_norm_chunks(a.call.rows) * channels) return;
    const std::int64_t chunk = at / channels, channel = at % channels, first = chunk * kGroupNormRows;
    const std::int64_t last = first + kGroupNormRows < a.call.rows ? first + kGroupNormRows : a.call.rows;
    const float* x = a.call.x + channel;
    float mean = 0.0F, squares = 0.0F;
    for (std::int64_t row = first; row < last; ++row) mean += x[row * channels];
    mean /= static_cast<float>(last - first);
    for (std::int64_t row = first; row < last; ++row)
        squares += (x[row * channels] - mean) * (x[row * channels] - mean);
    a.parts[2 * chunk * channels + channel] = mean;
    a.parts[(2 * chunk + 1) * channels + channel] = squares;
}

/// One warp per group joins the parts (Chan, Golub and LeVeque, 1979), in double, or takes the moments that
/// are given.
__device__ __forceinline__ void group_norm_join(const GroupNormSteps& a) {
    const std::int64_t group = warp_number(), channels = a.call.channels, size = channels / a.call.groups;
    if (group >= a.call.groups) return;
    const auto factor_of = [&](double variance) {
        return static_cast<float>(1.0 / sqrt(variance + static_cast<double>(a.call.epsilon)));
    };
    if (a.call.moments != nullptr) {
        if (lane_number() != 0) return;
        a.groups[2 * group] = a.call.moments[2 * group];
        a.groups[2 * group + 1] = factor_of(static_cast<double>(a.call.moments[2 * group + 1]));
        return;
    }
    const std::int64_t parts = group_norm_chunks(a.call.rows) * size;
    const auto part_of = [&](std::int64_t part) {
        return 2 * (part / size) * channels + group * size + part % size;
    };
    const auto rows_of = [&](std::int64_t part) {
        const std::int64_t left = a.call.rows - part / size * kGroupNormRows;
        return static_cast<double>(left < kGroupNormRows ? left : kGroupNormRows);
    };
    const double count = static_cast<double>(a.call.rows) * static_cast<double>(size);
    double mean = 0.0, squares = 0.0;
    for (std::int64_t i = lane_number(); i < parts; i += 32)
        mean += rows_of(i) * static_cast<double>(a.parts[part_of(i)]);
    mean = sum_of_warp(mean) / count;
    for (std::int64_t i = lane_number(); i < parts; i += 32) {
        const double distance = static_cast<double>(a.parts[part_of(i)]) - mean;
        squares += static_cast<double>(a.parts[part_of(i) + channels]) + rows_of(i) * distance * distance;
    }
    squares = sum_of_warp(squares);
    if (lane_number() != 0) return;
    const bool only_found = a.call.found != nullptr;
    float* to = (only_found ? a.call.found : a.groups) + 2 * group;
    to[0] = static_cast<float>(mean);
    to[1] = only_found ? static_cast<float>(squares / count) : factor_of(squares / count);
}

__device__ __forceinline__ void group_norm_apply(const GroupNormSteps& a) {
    const std::int64_t i = thread_number(), channels = a.call.channels;
    if (i >= a.call.rows * channels) return;
    const std::int64_t channel = i % channels, group = channel / (channels / a.call.groups);
    float value = (a.call.x[i] - a.groups[2 * group]) * a.groups[2 * group + 1];
    if (a.call.weight != nullptr) value *= a.call.weight[channel];
    if (a.call.bias != nullptr) value += a.call.bias[channel];
    a.call.y[i] = a.call.silu ? silu(value) : value;
}

__device__ __forceinline__ void softmax(const SoftmaxArgs& a) {
    const std::int64_t row = warp_number();
    if (row >= a.rows) return;
    float* x = a.x + row * a.x_stride;
    float largest = -INFINITY, sum = 0.0F;
    for (std::int64_t i = lane_number(); i < a.columns; i += 32)
        largest = largest > x[i] || largest != largest ? largest : x[i];
    largest = largest_of_warp(largest);
    for (std::int64_t i = lane_number(); i < a.columns; i += 32) sum += expf((x[i] - largest) * a.scale);
    sum = sum_of_warp(sum);
    for (std::int64_t i = lane_number(); i < a.columns; i += 32)
        x[i] = expf((x[i] - largest) * a.scale) / sum;
}

__device__ __forceinline__ void clamp(const ClampArgs& a) {
    const std::int64_t i = thread_number();
    if (i >= a.count) return;
    const bool below = a.clears_nan ? !(a.x[i] >= a.low) : a.x[i] < a.low;
    const float above = below ? a.low : a.x[i];
    a.x[i] = above > a.high ? a.high : above;
}

}  // namespace aerogel::cuda
