// y = x w^T + bias in plain loops: float schemes sum in double, integer schemes in exact integers with
// the float32 epilogue that kernels/linear.h spells out. Takes every format through its decoder.
#include "kernels/reference/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/format.h"

namespace aerogel {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t aligned(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Packed: the weight matrix (float32 [n,k], or int8 [n,k] where activations are quantized), then the
// float32 scales [n] of the integer case.
struct PackedLayout {
    explicit PackedLayout(const LinearProblem& problem)
        : integer(problem.activation != Activation::none),
          scale(aligned(static_cast<std::size_t>(problem.n * problem.k) * (integer ? 1 : sizeof(float)))),
          bytes(scale + aligned(static_cast<std::size_t>(integer ? problem.n : 0) * sizeof(float))) {}

    bool integer;
    std::size_t scale;
    std::size_t bytes;
};

// Workspace: float32 x' [m,k], int8 x_q [m,k].
struct WorkspaceLayout {
    explicit WorkspaceLayout(const LinearProblem& problem)
        : quantized(aligned(static_cast<std::size_t>(problem.m * problem.k) * sizeof(float))),
          bytes(quantized + aligned(static_cast<std::size_t>(problem.m * problem.k))) {}

    std::size_t quantized;
    std::size_t bytes;
};

std::string why_not(const LinearProblem& problem) {
    return linear_limits(problem);
}

std::size_t packed_bytes(const LinearProblem& problem) {
    return PackedLayout(problem).bytes;
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    return WorkspaceLayout(problem).bytes;
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    const PackedLayout layout(problem);
    if (!layout.integer) {
        const FormatRow& row = format_row(weight.format);
        auto* out = reinterpret_cast<float*>(packed);
        parallel_for(problem.n, [&](std::int64_t j, int) { row.decode_row(weight, j, out + j * problem.k); });
        return;
    }
    std::memcpy(packed, weight.data.data(), static_cast<std::size_t>(problem.n * problem.k));
    std::memcpy(packed + layout.scale, weight.scale.data(),
                static_cast<std::size_t>(problem.n) * sizeof(float));
}

void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
    for (std::int64_t p = 0; p < problem.k; ++p) {
        const std::int64_t at = i * args.x_stride + p;
        const float x = problem.x == DType::f32 ? static_cast<const float*>(args.x)[at]
                                                : to_float(static_cast<const BFloat16*>(args.x)[at]);
        out[p] = args.mul_scale == nullptr ? x : x * args.mul_scale[p];
    }
}

std::int8_t to_int8(float value) {
    return static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -128.0F, 127.0F));
}

// Returns s_t. Rows that have no scale give NaN and zeros, so that the epilogue makes them NaN.
float quantize_token(const float* x, std::int64_t k, std::int8_t* out) {
    float largest = 0;
    for (std::int64_t p = 0; p < k; ++p) {
        if (!std::isfinite(x[p])) {
            std::fill(out, out + k, std::int8_t{0});
            return std::numeric_limits<float>::quiet_NaN();
        }
        largest = std::max(largest, std::abs(x[p]));
    }
    float scale = largest / 127.0F;
    if (scale == 0) scale = 1;
    for (std::int64_t p = 0; p < k; ++p) out[p] = to_int8(x[p] / scale);
    return scale;
}

void quantize_static(const float* x, std::int64_t k, const LinearArgs& args, std::int8_t* out) {
    for (std::int64_t p = 0; p < k; ++p) {
        const float q = x[p] / args.input_scale + args.input_offset;
        out[p] = to_int8(std::isnan(q) ? args.input_offset : q);
    }
}

double dot(const float* x, const float* w, std::int64_t k) {
    double sum = 0;
    for (std::int64_t p = 0; p < k; ++p) sum += static_cast<double>(x[p]) * static_cast<double>(w[p]);
    return sum;
}

std::int32_t dot(const std::int8_t* x, const std::int8_t* w, std::int64_t k) {
    std::int32_t sum = 0;
    for (std::int64_t p = 0; p < k; ++p) sum += std::int32_t{x[p]} * std::int32_t{w[p]};
    return sum;
}

void write(const LinearProblem& problem, const LinearArgs& args, std::int64_t at, float value) {
    if (problem.y == DType::f32) {
        static_cast<float*>(args.y)[at] = value;
    } else {
        static_cast<BFloat16*>(args.y)[at] = to_bfloat16(value);
    }
}

void float_row(const LinearProblem& problem, const LinearArgs& args, const float* x, std::int64_t i) {
    const auto* w = reinterpret_cast<const float*>(args.packed);
    for (std::int64_t j = 0; j < problem.n; ++j) {
        const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[j]);
        const double sum = dot(x, w + j * problem.k, problem.k) + bias;
        write(problem, args, i * args.y_stride + j, static_cast<float>(sum));
    }
}

void integer_row(const LinearProblem& problem, const LinearArgs& args, const float* x, std::int64_t i) {
    const WorkspaceLayout workspace(problem);
    const auto* w = reinterpret_cast<const std::int8_t*>(args.packed);
    const auto* w_scale = reinterpret_cast<const float*>(args.packed + PackedLayout(problem).scale);
    auto* x_q = reinterpret_cast<std::int8_t*>(args.workspace + workspace.quantized) + i * problem.k;
    const bool dynamic = problem.activation == Activation::per_token;
    float s_t = 1;
    if (dynamic) {
        s_t = quantize_token(x, problem.k, x_q);
    } else {
        quantize_static(x, problem.k, args, x_q);
    }
    for (std::int64_t j = 0; j < problem.n; ++j) {
        const std::int32_t sum = dot(x_q, w + j * problem.k, problem.k);
        float y = 0;
        if (dynamic) {
            y = (static_cast<float>(sum) * s_t) * w_scale[j];
            if (args.bias != nullptr) y += args.bias[j];
        } else {
            const std::int64_t shifted = std::int64_t{sum} + args.quant_bias[j];
            y = static_cast<float>(static_cast<std::int32_t>(shifted)) * args.deq_scale[j];
        }
        write(problem, args, i * args.y_stride + j, y);
    }
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    parallel_for(problem.m, [&](std::int64_t i, int) {
        float* x = reinterpret_cast<float*>(args.workspace) + i * problem.k;
        read_row(problem, args, i, x);
        if (problem.activation == Activation::none) {
            float_row(problem, args, x, i);
        } else {
            integer_row(problem, args, x, i);
        }
    });
}

}  // namespace

constexpr LinearKernel kReferenceLinear = {
    "reference.linear", CpuLevel::baseline, why_not, packed_bytes, pack, workspace_bytes, run};

}  // namespace aerogel
