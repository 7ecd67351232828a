// Normalisation, activation functions, rotary embedding and residual over whatever vectors `Isa` offers
// (kernels/cpu/*/vector.h). Bound by memory, so one pass per array where the arithmetic allows it.
// Included by sources built for one CPU level; everything is local to the including file.
#pragma once

#include "kernels/cpu/row_tasks.h"
#include "kernels/elementwise.h"

namespace aerogel {
namespace {

/// Calls block(i, count) with count = kLanes, or less for the last lanes of `size` elements.
template <typename Isa, typename Block>
void for_vectors(std::int64_t size, const Block& block) {
    std::int64_t i = 0;
    for (; i + Isa::kLanes <= size; i += Isa::kLanes) block(i, Isa::kLanes);
    if (i < size) block(i, size - i);
}

// Worst errors against double, of every fifth float whose result is normal, with and without fused
// multiply-add, in ulp: e^x 0.9 and 1.2; silu 2.4; tanh 2.4; gelu_erf 7.2 and 7.6; gelu_tanh 2.6 for x > -1.
// Below that the rounding of gelu_tanh's argument counts as often as the argument is large: 21 at x = -3.9,
// 200 at -9.8, where the result is 1e-35.

/// e^x; 0 below the normal range, infinity above 88.7, NaN for NaN (Cody & Waite reduction).
template <typename Isa>
typename Isa::V exponential(typename Isa::V x) {
    using V = typename Isa::V;
    x = Isa::smaller(Isa::set1(89.0F), Isa::larger(Isa::set1(-106.0F), x));
    const V n = Isa::round(Isa::mul(x, Isa::set1(0x1.715476p0F)));
    V r = Isa::fnma(n, Isa::set1(0x1.63p-1F), x);
    r = Isa::fnma(n, Isa::set1(-0x1.bd0106p-13F), r);
    V p = Isa::set1(0x1.6a2352p-10F);
    p = Isa::fma(p, r, Isa::set1(0x1.123a6cp-7F));
    p = Isa::fma(p, r, Isa::set1(0x1.5558f4p-5F));
    p = Isa::fma(p, r, Isa::set1(0x1.555490p-3F));
    p = Isa::fma(p, r, Isa::set1(0x1.fffffcp-2F));
    p = Isa::fma(p, r, Isa::set1(1.0F));
    p = Isa::fma(p, r, Isa::set1(1.0F));
    return Isa::scale_by_power(p, n);
}

/// x * sigmoid(2 u) with u the argument of the tanh.
template <typename Isa>
typename Isa::V gelu_tanh(typename Isa::V x) {
    using V = typename Isa::V;
    const V one = Isa::set1(1.0F);
    const V inner = Isa::fma(Isa::mul(x, x), Isa::set1(0.0713548162726F), Isa::set1(1.59576912161F));
    return Isa::div(x, Isa::add(one, exponential<Isa>(Isa::fnma(x, inner, Isa::zero()))));
}

/// x * (1 + erf(x / sqrt 2)) / 2. The upper tail is erfc(z) / 2 = e^(-x^2/2) t P(t) with t = 1 / (1 + 0.4 z);
/// x^2 is kept in two floats, so that the tail keeps its relative precision.
template <typename Isa>
typename Isa::V gelu_erf(typename Isa::V x) {
    using V = typename Isa::V;
    const V one = Isa::set1(1.0F);
    const V a = Isa::smaller(Isa::set1(14.5F), Isa::absolute(x));
    const V t = Isa::div(one, Isa::fma(a, Isa::set1(0.28284271F), one));
    V p = Isa::set1(-0x1.db5eeap-6F);
    p = Isa::fma(p, t, Isa::set1(0x1.8f154ep-3F));
    p = Isa::fma(p, t, Isa::set1(-0x1.f734f4p-2F));
    p = Isa::fma(p, t, Isa::set1(0x1.133d46p-1F));
    p = Isa::fma(p, t, Isa::set1(-0x1.1acdc2p-2F));
    p = Isa::fma(p, t, Isa::set1(0x1.121966p-2F));
    p = Isa::fma(p, t, Isa::set1(0x1.0cb020p-3F));
    p = Isa::fma(p, t, Isa::set1(0x1.b77d8ap-3F));
    p = Isa::fma(p, t, Isa::set1(0x1.ccc80ep-3F));
    p = Isa::fma(p, t, Isa::set1(0x1.ce3e60p-3F));
    const V half = Isa::set1(0.5F);
    const V square = Isa::mul(a, a);
    const V lost = Isa::square_error(a, square);
    const V bell = exponential<Isa>(Isa::mul(square, Isa::set1(-0.5F)));
    const V upper = Isa::mul(Isa::mul(Isa::mul(half, t), p), Isa::fnma(Isa::mul(half, lost), bell, bell));
    return Isa::mul(x, Isa::where_negative(x, upper, Isa::sub(one, upper)));
}

template <typename Isa>
typename Isa::V silu(typename Isa::V x) {
    return Isa::div(x, Isa::add(Isa::set1(1.0F), exponential<Isa>(Isa::sub(Isa::zero(), x))));
}

/// From e^(-2|x|), or, near zero where that loses digits, the [5/4] Pade approximant.
template <typename Isa>
typename Isa::V tanh(typename Isa::V x) {
    using V = typename Isa::V;
    const V one = Isa::set1(1.0F), a = Isa::absolute(x), square = Isa::mul(x, x);
    const V e = exponential<Isa>(Isa::mul(a, Isa::set1(-2.0F)));
    const V far = Isa::div(Isa::sub(one, e), Isa::add(one, e));
    const V above = Isa::fma(square, Isa::add(square, Isa::set1(105.0F)), Isa::set1(945.0F));
    const V below =
        Isa::fma(square, Isa::fma(square, Isa::set1(15.0F), Isa::set1(420.0F)), Isa::set1(945.0F));
    const V near = Isa::div(Isa::mul(x, above), below);
    return Isa::where_negative(Isa::sub(a, Isa::set1(0.5F)), near,
                               Isa::where_negative(x, Isa::sub(Isa::zero(), far), far));
}

/// Calls run(f), f a function of one vector.
template <typename Isa, typename Run>
void with_function(ActivationFunction function, const Run& run) {
    using V = typename Isa::V;
    switch (function) {
        case ActivationFunction::gelu_tanh:
            return run([](V a) { return gelu_tanh<Isa>(a); });
        case ActivationFunction::gelu_erf:
            return run([](V a) { return gelu_erf<Isa>(a); });
        case ActivationFunction::silu:
            return run([](V a) { return silu<Isa>(a); });
        case ActivationFunction::tanh:
            return run([](V a) { return tanh<Isa>(a); });
    }
}

/// y = f(x) in chunks of kTaskElements.
template <typename Isa, typename Function>
void activate(const ActivationArgs& args, const Function& function) {
    const std::int64_t chunks = (args.count + kTaskElements - 1) / kTaskElements;
    parallel_for(chunks, [&](std::int64_t chunk, int) {
        const std::int64_t first = chunk * kTaskElements;
        const std::int64_t size = args.count - first < kTaskElements ? args.count - first : kTaskElements;
        for_vectors<Isa>(size, [&](std::int64_t i, std::int64_t lanes) {
            Isa::store_part(args.y + first + i, lanes, function(Isa::load_part(args.x + first + i, lanes)));
        });
    });
}

template <typename Isa>
void run_activation(const ActivationArgs& args) {
    with_function<Isa>(args.function, [&](const auto& function) { activate<Isa>(args, function); });
}

template <typename Isa>
void run_gated(const GatedArgs& args) {
    with_function<Isa>(args.function, [&](const auto& function) {
        for_rows(args.rows, args.columns, [&](std::int64_t row) {
            const float* gate = args.gate + row * args.gate_stride;
            const float* x = args.x + row * args.x_stride;
            float* y = args.y + row * args.y_stride;
            for_vectors<Isa>(args.columns, [&](std::int64_t i, std::int64_t lanes) {
                const auto open = function(Isa::load_part(gate + i, lanes));
                Isa::store_part(y + i, lanes, Isa::mul(open, Isa::load_part(x + i, lanes)));
            });
        });
    });
}

/// Sums of (x - center) and of its square. Four vectors of partial sums keep chains short and errors small.
struct Moments {
    float sum, square;
};

template <typename Isa>
Moments moments(const float* x, std::int64_t size, float center) {
    using V = typename Isa::V;
    constexpr std::int64_t kLanes = Isa::kLanes;
    const V middle = Isa::set1(center);
    V sums[4] = {Isa::zero(), Isa::zero(), Isa::zero(), Isa::zero()};
    V squares[4] = {Isa::zero(), Isa::zero(), Isa::zero(), Isa::zero()};
    std::int64_t i = 0;
    for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const V d = Isa::sub(Isa::load(x + i + j * kLanes), middle);
            sums[j] = Isa::add(sums[j], d);
            squares[j] = Isa::fma(d, d, squares[j]);
        }
    }
    float sum = 0.0F, square = 0.0F;
    for (; i < size; ++i) {
        const float d = x[i] - center;
        sum += d;
        square += d * d;
    }
    sum += Isa::reduce_add(Isa::add(Isa::add(sums[0], sums[1]), Isa::add(sums[2], sums[3])));
    square += Isa::reduce_add(Isa::add(Isa::add(squares[0], squares[1]), Isa::add(squares[2], squares[3])));
    return {sum, square};
}

/// The second pass measures what the first mean missed and corrects both mean and variance by it.
template <typename Isa>
void norm_row(const NormArgs& args, std::int64_t row) {
    using V = typename Isa::V;
    const float* x = args.x + row * args.x_stride;
    float* y = args.y + row * args.y_stride;
    const std::int64_t modulation = row / args.rows_per_modulation * args.modulation_stride;
    const float* scale = args.scale == nullptr ? nullptr : args.scale + modulation;
    const float* shift = args.shift == nullptr ? nullptr : args.shift + modulation;
    const auto n = static_cast<float>(args.columns);
    const bool centered = args.kind == NormKind::layer;
    const float mean = centered ? moments<Isa>(x, args.columns, 0.0F).sum / n : 0.0F;
    const Moments rest = moments<Isa>(x, args.columns, mean);
    const float missed = centered ? rest.sum / n : 0.0F;
    const float variance = rest.square / n - missed * missed;
    const float factor = 1.0F / __builtin_sqrtf((variance < 0.0F ? 0.0F : variance) + args.epsilon);
    const V center = Isa::set1(mean), width = Isa::set1(factor), correction = Isa::set1(missed * factor);
    for_vectors<Isa>(args.columns, [&](std::int64_t i, std::int64_t lanes) {
        V value = Isa::fmsub(Isa::sub(Isa::load_part(x + i, lanes), center), width, correction);
        if (args.weight != nullptr) value = Isa::mul(value, Isa::load_part(args.weight + i, lanes));
        if (args.bias != nullptr) value = Isa::add(value, Isa::load_part(args.bias + i, lanes));
        if (scale != nullptr)
            value = Isa::mul(value, Isa::add(Isa::set1(1.0F), Isa::load_part(scale + i, lanes)));
        if (shift != nullptr) value = Isa::add(value, Isa::load_part(shift + i, lanes));
        if (args.silu) value = silu<Isa>(value);
        Isa::store_part(y + i, lanes, value);
    });
}

template <typename Isa>
void run_norm(const NormArgs& args) {
    for_rows(args.rows, args.columns, [&](std::int64_t row) { norm_row<Isa>(args, row); });
}

template <typename Isa>
void rope_halves(const RopeArgs& args) {
    const std::int64_t half = args.head_dim / 2;
    for_rows(args.rows, args.heads * args.head_dim, [&](std::int64_t row) {
        const float* cos = args.cos + row % args.tokens * half;
        const float* sin = args.sin + row % args.tokens * half;
        for_vectors<Isa>(half, [&](std::int64_t i, std::int64_t lanes) {
            const auto c = Isa::load_part(cos + i, lanes), s = Isa::load_part(sin + i, lanes);
            for (std::int64_t head = 0; head < args.heads; ++head) {
                float* x = args.x + row * args.x_stride + head * args.head_dim + i;
                const auto a = Isa::load_part(x, lanes), b = Isa::load_part(x + half, lanes);
                Isa::store_part(x, lanes, Isa::fnma(b, s, Isa::mul(a, c)));
                Isa::store_part(x + half, lanes, Isa::fma(a, s, Isa::mul(b, c)));
            }
        });
    });
}

template <typename Isa>
void run_rope(const RopeArgs& args) {
    if (args.pairs == RopePairs::halves) return rope_halves<Isa>(args);
    const std::int64_t half = args.head_dim / 2;
    for_rows(args.rows, args.heads * args.head_dim, [&](std::int64_t row) {
        const float* cos = args.cos + row % args.tokens * half;
        const float* sin = args.sin + row % args.tokens * half;
        for_vectors<Isa>(2 * half, [&](std::int64_t i, std::int64_t lanes) {
            const auto c = Isa::load_twice(cos + i / 2, lanes / 2);
            const auto s = Isa::load_twice(sin + i / 2, lanes / 2);
            for (std::int64_t head = 0; head < args.heads; ++head) {
                float* x = args.x + row * args.x_stride + head * args.head_dim + i;
                Isa::store_part(x, lanes, Isa::rotate_pairs(Isa::load_part(x, lanes), c, s));
            }
        });
    });
}

template <typename Isa>
void run_residual(const ResidualArgs& args) {
    for_rows(args.rows, args.columns, [&](std::int64_t row) {
        float* x = args.x + row * args.x_stride;
        const float* y = args.y + row * args.y_stride;
        const float* gate =
            args.gate == nullptr ? nullptr : args.gate + row / args.rows_per_gate * args.gate_stride;
        for_vectors<Isa>(args.columns, [&](std::int64_t i, std::int64_t lanes) {
            const auto old = Isa::load_part(x + i, lanes), more = Isa::load_part(y + i, lanes);
            const auto sum =
                gate == nullptr ? Isa::add(old, more) : Isa::fma(more, Isa::load_part(gate + i, lanes), old);
            Isa::store_part(x + i, lanes, sum);
        });
    });
}

}  // namespace
}  // namespace aerogel
