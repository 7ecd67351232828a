// y = x w^T + bias in plain loops: float schemes sum in double, also where activations are small floats, and
// integer schemes in exact integers with the float32 epilogue that kernels/linear.h spells out. Takes every
// format through its decoder.
#include "kernels/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/format.h"
#include "kernels/reference/activations.h"

namespace aerogel {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t aligned(std::size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Packed: the weight matrix (float32 [n,k], or int8 [n,k] where activations are integers), then the float32
// scales [n, groups] of the integer case.
struct PackedLayout {
    explicit PackedLayout(const LinearProblem& problem)
        : integer(is_integer(problem.activation)),
          groups(problem.group_size == 0 ? 1 : problem.k / problem.group_size),
          scale(aligned(static_cast<std::size_t>(problem.n * problem.k) * (integer ? 1 : sizeof(float)))),
          bytes(scale + aligned(static_cast<std::size_t>(integer ? problem.n * groups : 0) * sizeof(float))) {
    }

    bool integer;
    std::int64_t groups;
    std::size_t scale;
    std::size_t bytes;
};

// Workspace: float32 x' [m,k], its factors [m, factors], int8 x_q [m,k].
struct WorkspaceLayout {
    explicit WorkspaceLayout(const LinearProblem& problem)
        : factors(aligned(static_cast<std::size_t>(problem.m * problem.k) * sizeof(float))),
          integers(factors + aligned(static_cast<std::size_t>(problem.m * activation_factors(problem)) *
                                     sizeof(float))),
          bytes(integers + aligned(static_cast<std::size_t>(problem.m * problem.k))) {}

    std::size_t factors;
    std::size_t integers;
    std::size_t bytes;
};

std::string why_not(const LinearProblem& problem) {
    return linear_limits(problem, true);
}

std::size_t packed_bytes(const LinearProblem& problem) {
    return PackedLayout(problem).bytes;
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    return WorkspaceLayout(problem).bytes;
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    const PackedLayout layout(problem);
    const FormatRow& row = format_row(weight.format);
    if (!layout.integer) {
        auto* out = reinterpret_cast<float*>(packed);
        parallel_for(problem.n, [&](std::int64_t j, int) { decode_row(weight, j, out + j * problem.k); });
        return;
    }
    auto* out = reinterpret_cast<std::int8_t*>(packed);
    parallel_for(problem.n, [&](std::int64_t j, int) {
        row.integers(weight, {j, 0, problem.k}, out + j * problem.k);
    });
    std::memcpy(packed + layout.scale, weight.scale.data(),
                static_cast<std::size_t>(problem.n * layout.groups) * sizeof(float));
}

void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
    for (std::int64_t p = 0; p < problem.k; ++p) {
        const std::int64_t at = i * args.x_stride + p;
        const float x = problem.x == DType::f32    ? static_cast<const float*>(args.x)[at]
                        : problem.x == DType::bf16 ? to_float(static_cast<const BFloat16*>(args.x)[at])
                                                   : to_float(static_cast<const Float16*>(args.x)[at]);
        out[p] = args.mul_scale == nullptr ? x : x * args.mul_scale[p];
    }
}

std::int8_t to_int8(float value) {
    return static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -128.0F, 127.0F));
}

void quantize_static(const float* x, std::int64_t k, const LinearArgs& args, std::int8_t* out) {
    for (std::int64_t p = 0; p < k; ++p) {
        const float q = x[p] / args.input_scale + args.input_offset;
        out[p] = to_int8(std::isnan(q) ? args.input_offset : q);
    }
}

// sum_p x w, every block of columns times its factor.
double dot(const QuantizedRow& x, const float* w, std::int64_t k) {
    double sum = 0;
    for (std::int64_t first = 0; first < k; first += x.width) {
        double part = 0;
        for (std::int64_t p = first; p < std::min(first + x.width, k); ++p) {
            part += static_cast<double>(x.values[p]) * static_cast<double>(w[p]);
        }
        sum += part * static_cast<double>(x.factors[first / x.width]);
    }
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
    } else if (problem.y == DType::bf16) {
        static_cast<BFloat16*>(args.y)[at] = to_bfloat16(value);
    } else {
        static_cast<Float16*>(args.y)[at] = to_float16(value);
    }
}

void float_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRow& x, std::int64_t i) {
    const auto* w = reinterpret_cast<const float*>(args.packed);
    for (std::int64_t j = 0; j < problem.n; ++j) {
        const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[j]);
        const double sum = dot(x, w + j * problem.k, problem.k) + bias;
        write(problem, args, i * args.y_stride + j, static_cast<float>(sum));
    }
}

// y of a dynamic integer row and one row of weights.
float dynamic_value(const LinearProblem& problem, const std::int8_t* x, const std::int8_t* w,
                    const float* w_scale, float s_t) {
    if (problem.group_size == 0) return (static_cast<float>(dot(x, w, problem.k)) * w_scale[0]) * s_t;
    float sum = 0;
    for (std::int64_t p = 0; p < problem.k; p += problem.group_size) {
        sum += static_cast<float>(dot(x + p, w + p, problem.group_size)) * w_scale[p / problem.group_size];
    }
    return sum * s_t;
}

void dynamic_row(const LinearProblem& problem, const LinearArgs& args, const std::int8_t* x_q, float s_t,
                 std::int64_t i) {
    const PackedLayout layout(problem);
    const auto* w = reinterpret_cast<const std::int8_t*>(args.packed);
    const auto* w_scale = reinterpret_cast<const float*>(args.packed + layout.scale);
    for (std::int64_t j = 0; j < problem.n; ++j) {
        float y = dynamic_value(problem, x_q, w + j * problem.k, w_scale + j * layout.groups, s_t);
        if (args.bias != nullptr) y += args.bias[j];
        write(problem, args, i * args.y_stride + j, y);
    }
}

void static_row(const LinearProblem& problem, const LinearArgs& args, const std::int8_t* x_q,
                std::int64_t i) {
    const auto* w = reinterpret_cast<const std::int8_t*>(args.packed);
    for (std::int64_t j = 0; j < problem.n; ++j) {
        const std::int32_t sum = dot(x_q, w + j * problem.k, problem.k);
        const std::int64_t shifted = std::int64_t{sum} + args.quant_bias[j];
        const float y = static_cast<float>(static_cast<std::int32_t>(shifted)) * args.deq_scale[j];
        write(problem, args, i * args.y_stride + j, y);
    }
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    const WorkspaceLayout workspace(problem);
    const std::int64_t factors = activation_factors(problem);
    parallel_for(problem.m, [&](std::int64_t i, int) {
        float* x = reinterpret_cast<float*>(args.workspace) + i * problem.k;
        read_row(problem, args, i, x);
        auto* x_q = reinterpret_cast<std::int8_t*>(args.workspace + workspace.integers) + i * problem.k;
        if (problem.activation == Activation::per_tensor) {
            quantize_static(x, problem.k, args, x_q);
            static_row(problem, args, x_q, i);
        } else if (is_integer(problem.activation)) {
            dynamic_row(problem, args, x_q, quantize_row_to_integers(problem, x, x_q), i);
        } else {
            auto* own = reinterpret_cast<float*>(args.workspace + workspace.factors) + i * factors;
            const QuantizedRow row = {x, own, activation_width(problem)};
            if (problem.activation == Activation::none) {
                std::fill(own, own + factors, 1.0F);
            } else {
                quantize_row(problem, row);
            }
            float_row(problem, args, row, i);
        }
    });
}

}  // namespace

constexpr LinearKernel reference::kLinear = {.name = "reference.linear",
                                             .why_not = why_not,
                                             .packed_bytes = packed_bytes,
                                             .pack = pack,
                                             .workspace_bytes = workspace_bytes,
                                             .run = run,
                                             .f16 = true};

}  // namespace aerogel
