// Every value is computed in double and rounded once. Rows (or fixed chunks) are independent tasks.
#include "kernels/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/thread_pool.h"
#include "kernels/plain_elementwise.h"

namespace aerogel::reference {
namespace {

double activate(ActivationFunction function, double x) {
    switch (function) {
        case ActivationFunction::gelu_tanh: {
            const double inner = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
            return x / (1.0 + std::exp(-2.0 * inner));  // (1 + tanh) / 2 without cancellation
        }
        case ActivationFunction::gelu_erf:
            return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
        case ActivationFunction::tanh:
            return std::tanh(x);
        case ActivationFunction::silu:
            break;
    }
    return x / (1.0 + std::exp(-x));
}

void norm_row(const NormArgs& args, std::int64_t row) {
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    const std::int64_t modulation = row / args.rows_per_modulation * args.modulation_stride;
    const auto n = static_cast<double>(args.columns);
    double mean = 0.0;
    if (args.kind == NormKind::layer) {
        for (std::int64_t i = 0; i < args.columns; ++i) mean += x[i];
        mean /= n;
    }
    double variance = 0.0;
    for (std::int64_t i = 0; i < args.columns; ++i) variance += (x[i] - mean) * (x[i] - mean);
    const double factor = 1.0 / std::sqrt(variance / n + static_cast<double>(args.epsilon));
    for (std::int64_t i = 0; i < args.columns; ++i) {
        double value = (x[i] - mean) * factor;
        if (args.weight != nullptr) value *= args.weight[i];
        if (args.bias != nullptr) value += args.bias[i];
        if (args.scale != nullptr) value *= 1.0 + args.scale[modulation + i];
        if (args.shift != nullptr) value += args.shift[modulation + i];
        if (args.silu) value = activate(ActivationFunction::silu, value);
        y[i] = static_cast<float>(value);
    }
}

void norm(const NormArgs& args) noexcept {
    parallel_for(args.rows, [&](std::int64_t row, int) { norm_row(args, row); });
}

void activation(const ActivationArgs& args) noexcept {
    constexpr std::int64_t kChunk = 4096;
    parallel_for((args.count + kChunk - 1) / kChunk, [&](std::int64_t chunk, int) {
        const std::int64_t end = std::min(args.count, (chunk + 1) * kChunk);
        for (std::int64_t i = chunk * kChunk; i < end; ++i)
            args.y[i] = static_cast<float>(activate(args.function, args.x[i]));
    });
}

void gated(const GatedArgs& args) noexcept {
    parallel_for(args.rows, [&](std::int64_t row, int) {
        for (std::int64_t i = 0; i < args.columns; ++i) {
            const double open = activate(args.function, args.gate[row * args.gate_stride + i]);
            args.y[row * args.y_stride + i] = static_cast<float>(open * args.x[row * args.x_stride + i]);
        }
    });
}

void rope(const RopeArgs& args) noexcept {
    const std::int64_t half = args.head_dim / 2;
    const bool halves = args.pairs == RopePairs::halves;
    const std::int64_t step = halves ? 1 : 2, other = halves ? half : 1;
    parallel_for(args.rows, [&](std::int64_t row, int) {
        const float* cos = args.cos + row % args.tokens * half;
        const float* sin = args.sin + row % args.tokens * half;
        for (std::int64_t head = 0; head < args.heads; ++head) {
            float* x = args.x + row * args.x_stride + head * args.head_dim;
            for (std::int64_t i = 0; i < half; ++i) {
                float& first = x[i * step];
                float& second = x[i * step + other];
                const double a = first, b = second, c = cos[i], s = sin[i];
                first = static_cast<float>(a * c - b * s);
                second = static_cast<float>(a * s + b * c);
            }
        }
    });
}

void residual(const ResidualArgs& args) noexcept {
    parallel_for(args.rows, [&](std::int64_t row, int) {
        float* x = args.x + row * args.x_stride;
        const float* y = args.y + row * args.y_stride;
        const float* gate =
            args.gate == nullptr ? nullptr : args.gate + row / args.rows_per_gate * args.gate_stride;
        for (std::int64_t i = 0; i < args.columns; ++i) {
            const double g = gate == nullptr ? 1.0 : static_cast<double>(gate[i]);
            x[i] = static_cast<float>(x[i] + static_cast<double>(y[i]) * g);
        }
    });
}

void group_norm(const GroupNormArgs& args) noexcept {
    const std::int64_t size = args.channels / args.groups;
    parallel_for(args.groups, [&](std::int64_t group, int) {
        const auto each = [&](const auto& visit) {
            for (std::int64_t row = 0; row < args.rows; ++row)
                for (std::int64_t c = group * size; c < (group + 1) * size; ++c)
                    visit(row * args.channels + c, c);
        };
        const double count = static_cast<double>(args.rows) * static_cast<double>(size);
        double mean = 0.0, variance = 0.0;
        if (args.moments != nullptr) {
            mean = args.moments[2 * group];
            variance = args.moments[2 * group + 1];
        } else {
            each([&](std::int64_t i, std::int64_t) { mean += args.x[i] / count; });
            each([&](std::int64_t i, std::int64_t) {
                variance += (args.x[i] - mean) * (args.x[i] - mean) / count;
            });
        }
        if (args.found != nullptr) {
            args.found[2 * group] = static_cast<float>(mean);
            args.found[2 * group + 1] = static_cast<float>(variance);
            return;
        }
        const double factor = 1.0 / std::sqrt(variance + static_cast<double>(args.epsilon));
        each([&](std::int64_t i, std::int64_t c) {
            double value = (args.x[i] - mean) * factor;
            if (args.weight != nullptr) value *= args.weight[c];
            if (args.bias != nullptr) value += args.bias[c];
            if (args.silu) value = activate(ActivationFunction::silu, value);
            args.y[i] = static_cast<float>(value);
        });
    });
}

void softmax(const SoftmaxArgs& args) noexcept {
    parallel_for(args.rows, [&](std::int64_t row, int) {
        float* x = args.x + row * args.x_stride;
        const double largest = *std::max_element(x, x + args.columns);
        const auto power = [&](float value) {
            return std::exp((value - largest) * static_cast<double>(args.scale));
        };
        double sum = 0.0;
        for (std::int64_t i = 0; i < args.columns; ++i) sum += power(x[i]);
        for (std::int64_t i = 0; i < args.columns; ++i) x[i] = static_cast<float>(power(x[i]) / sum);
    });
}

}  // namespace

constexpr ElementwiseKernels kElementwise = {"reference.elementwise",
                                             norm,
                                             activation,
                                             gated,
                                             rope,
                                             residual,
                                             plain::combine,
                                             plain::copy,
                                             plain::match_norms,
                                             plain::all_finite,
                                             group_norm,
                                             softmax,
                                             plain::clamp};

}  // namespace aerogel::reference
