// Every elementwise kernel set of this CPU level against formulas in double, within bounds computed from the
// data; odd sizes, strides, poisoned margins, NaN, the same bits for any number of threads.
#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <random>

#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "kernels/cpu_kernels.h"
#include "kernels/reference/kernels.h"

namespace aerogel {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kPoison = -12345.5F;

testing::KernelReferences<ElementwiseKernels> usable() {
    return testing::usable(testing::machine_under_test().elementwise);
}

std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

std::vector<float> normal(std::int64_t count, unsigned seed, float mean = 0.0F, float deviation = 1.0F) {
    std::mt19937 random(seed);
    std::normal_distribution<float> values(mean, deviation);
    std::vector<float> out(at(count));
    for (float& x : out) x = values(random);
    return out;
}

struct NormCase {
    NormKind kind = NormKind::layer;
    std::int64_t rows = 1, columns = 1, rows_per_modulation = 1;
    bool weight = false, bias = false, scale = false, shift = false;
    float mean = 0.0F, deviation = 1.0F;
};

using NormFunction = std::function<void(const NormArgs&)>;

/// Arrays of one NormCase; rows of x and y are 3 floats longer than their columns.
class NormRun {
  public:
    explicit NormRun(const NormCase& c)
        : case_(c),
          x_(normal(c.rows * stride(), 1, c.mean, c.deviation)),
          weight_(normal(stride(), 2)),
          bias_(normal(stride(), 3)),
          scale_(normal(c.rows * stride(), 4)),
          shift_(normal(c.rows * stride(), 5)) {}

    std::vector<float> run(const NormFunction& norm) {
        std::vector<float> y(at(case_.rows * stride()), kPoison);
        for (std::int64_t row = 0; row < case_.rows; ++row)
            std::fill_n(y.begin() + row * stride(), case_.columns, kNaN);
        NormArgs args;
        args.kind = case_.kind;
        args.rows = case_.rows;
        args.columns = case_.columns;
        args.x = x_.data();
        args.y = y.data();
        args.x_stride = args.y_stride = args.modulation_stride = stride();
        args.weight = case_.weight ? weight_.data() : nullptr;
        args.bias = case_.bias ? bias_.data() : nullptr;
        args.scale = case_.scale ? scale_.data() : nullptr;
        args.shift = case_.shift ? shift_.data() : nullptr;
        args.rows_per_modulation = case_.rows_per_modulation;
        norm(args);
        return y;
    }

    /// Elements out of bounds, and margins written to.
    int wrong(const std::vector<float>& y) const {
        int count = 0;
        for (std::int64_t row = 0; row < case_.rows; ++row) {
            count += wrong_in_row(row, y.data() + row * stride());
            for (std::int64_t i = case_.columns; i < stride(); ++i)
                count += y[at(row * stride() + i)] != kPoison;
        }
        return count;
    }

  private:
    std::int64_t stride() const { return case_.columns + 3; }

    /// A first float mean misses by n units of the mean magnitude at most; the rest is relative to what is
    /// left after subtracting it: sums of n terms, hence n units, and half of that for the inverse root.
    int wrong_in_row(std::int64_t row, const float* y) const {
        const float* x = x_.data() + row * stride();
        const auto n = static_cast<double>(case_.columns);
        double mean = 0.0, magnitude = 0.0, variance = 0.0;
        for (std::int64_t i = 0; i < case_.columns; ++i) magnitude += std::fabs(x[i]) / n;
        if (case_.kind == NormKind::layer)
            for (std::int64_t i = 0; i < case_.columns; ++i) mean += x[i] / n;
        for (std::int64_t i = 0; i < case_.columns; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
        const double missed = case_.kind == NormKind::layer ? (n + 2) * kUnit * magnitude : 0.0;
        const double factor = 1.0 / std::sqrt(variance + 1e-6);
        const double mean_error =
            case_.kind == NormKind::layer ? (n + 4) * kUnit * (std::sqrt(variance) + missed) : 0.0;
        const double factor_error = (n + 12) * kUnit * (1.0 + missed * missed * factor * factor);
        const std::int64_t modulation = row / case_.rows_per_modulation * stride();
        int count = 0;
        for (std::int64_t i = 0; i < case_.columns; ++i) {
            const double d = x[i] - mean;
            double value = d * factor;
            double error =
                factor * (mean_error + 3 * kUnit * (std::fabs(d) + missed)) + std::fabs(value) * factor_error;
            const auto multiply = [&](double by) {
                value *= by;
                error = error * std::fabs(by) + 3 * kUnit * std::fabs(value) + 0x1p-149;
            };
            const auto add = [&](double more) {
                value += more;
                error += kUnit * std::fabs(value);
            };
            if (case_.weight) multiply(weight_[at(i)]);
            if (case_.bias) add(bias_[at(i)]);
            if (case_.scale) multiply(1.0 + static_cast<double>(scale_[at(modulation + i)]));
            if (case_.shift) add(shift_[at(modulation + i)]);
            count += !(std::fabs(y[i] - value) <= error * 1.01 + kUnit * std::fabs(value));
        }
        return count;
    }

    NormCase case_;
    std::vector<float> x_, weight_, bias_, scale_, shift_;
};

std::vector<NormCase> norm_cases() {
    return {{NormKind::layer, 1, 1},
            {NormKind::layer, 3, 7, 1, true, true},
            {NormKind::rms, 5, 33, 2, true},
            {NormKind::layer, 9, 127, 3, false, false, true, true},
            {NormKind::layer, 4, 1536, 4, true, true, true, true},
            {NormKind::rms, 2, 5120, 1, true},
            {NormKind::rms, 17, 64, 5, false, false, true, false},
            {NormKind::layer, 300, 256, 150, false, false, false, true},
            {NormKind::layer, 3, 1000, 1, false, false, false, false, 1000.0F, 0.1F},
            {NormKind::layer, 3, 200, 1, false, false, false, false, 3.0F, 0.0F},
            {NormKind::layer, 2, 129, 1, false, true, false, false, 0.0F, 1e-4F}};
}

TEST(ElementwiseKernels, NormWithinBounds) {
    for (const NormCase& c : norm_cases()) {
        NormRun run(c);
        for (const ElementwiseKernels& set : usable())
            EXPECT_EQ(run.wrong(run.run(set.norm)), 0) << set.name << " " << c.rows << "x" << c.columns;
    }
}

TEST(ElementwiseKernels, BrokenNormsAreCaught) {
    const auto reference = reference::kElementwise.norm;
    NormRun run({NormKind::layer, 9, 127, 3, true, true, true, true, 0.5F, 1.0F});
    EXPECT_EQ(run.wrong(run.run(reference)), 0);
    const auto broken = [&](auto change) {
        return run.wrong(run.run([&](NormArgs args) {
            change(args);
            reference(args);
        }));
    };
    EXPECT_NE(broken([](NormArgs& a) { a.kind = NormKind::rms; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.columns -= 1; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.columns += 1; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.epsilon = 1e-3F; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.weight = nullptr; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.bias = nullptr; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.scale = nullptr; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.shift = nullptr; }), 0);
    EXPECT_NE(broken([](NormArgs& a) { a.rows_per_modulation = 1; }), 0);
}

/// f(x), and how far a float kernel may be off: the units of the result that the kernels need
/// (kernels/cpu/elementwise_loops.h) and hardly more, so that a wrong coefficient shows; the rounding of
/// gelu_tanh's argument, which counts as often as the exponential's argument is large; what underflows.
struct Exact {
    double value, bound;
};

Exact exact_activation(ActivationFunction function, double x) {
    constexpr double kUnderflow = 0x1p-119;
    if (function == ActivationFunction::silu) {
        const double y = x / (1.0 + std::exp(-x));
        return {y, 4 * kUnit * std::fabs(y) + kUnderflow};
    }
    if (function == ActivationFunction::tanh) {
        const double y = std::tanh(x);
        return {y, 4 * kUnit * std::fabs(y) + kUnderflow};
    }
    if (function == ActivationFunction::gelu_erf) {
        const double y = 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
        return {y, 10 * kUnit * std::fabs(y) + kUnderflow};
    }
    const double argument = 2.0 * std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
    const double y = x / (1.0 + std::exp(-argument));
    const double share = 1.0 / (1.0 + std::exp(argument));  // how much of the exponential's error arrives
    return {y, (3 + 3 * share * std::min(std::fabs(argument), 100.0)) * kUnit * std::fabs(y) + kUnderflow};
}

std::vector<float> activation_inputs() {
    std::vector<float> x = {0.0F, -0.0F, 1e-40F, -1e-40F, 1e30F, -1e30F, 88.8F, -88.8F, 104.0F, -104.0F};
    for (int i = -40000; i <= 40000; ++i) x.push_back(static_cast<float>(i) * 0.003F);
    for (float power = 1.0F; power > 1e-30F; power *= 0.7F) x.insert(x.end(), {power, -power});
    return x;
}

constexpr ActivationFunction kFunctions[] = {ActivationFunction::gelu_tanh, ActivationFunction::gelu_erf,
                                             ActivationFunction::silu, ActivationFunction::tanh};

TEST(ElementwiseKernels, ActivationsWithinAFewUnits) {
    const std::vector<float> x = activation_inputs();
    for (const ElementwiseKernels& set : usable()) {
        for (const ActivationFunction function : kFunctions) {
            std::vector<float> y(x.size() + 1, kNaN);
            y.back() = kPoison;
            set.activation({function, x.data(), y.data(), static_cast<std::int64_t>(x.size())});
            EXPECT_EQ(y.back(), kPoison);
            for (std::size_t i = 0; i < x.size(); ++i) {
                const Exact exact = exact_activation(function, x[i]);
                ASSERT_LE(std::fabs(y[i] - exact.value), exact.bound)
                    << set.name << " function " << static_cast<int>(function) << " x " << x[i];
            }
        }
    }
}

TEST(ElementwiseKernels, ActivationsOfEverySizeInPlace) {
    for (const ElementwiseKernels& set : usable()) {
        for (std::int64_t count = 0; count < 70; ++count) {
            std::vector<float> x = normal(count + 1, 7);
            const std::vector<float> before = x;
            set.activation({ActivationFunction::silu, x.data(), x.data(), count});
            EXPECT_EQ(x.back(), before.back());
            for (std::size_t i = 0; i + 1 < x.size(); ++i) {
                const Exact exact = exact_activation(ActivationFunction::silu, before[i]);
                ASSERT_LE(std::fabs(x[i] - exact.value), exact.bound) << set.name << " " << count;
            }
        }
    }
}

TEST(ElementwiseKernels, ActivationsOfNaNAndInfinity) {
    for (const ElementwiseKernels& set : usable()) {
        for (const ActivationFunction function : kFunctions) {
            const std::vector<float> x = {kNaN, kInfinity, -kInfinity, 1.0F};
            std::vector<float> y(4);
            set.activation({function, x.data(), y.data(), 4});
            EXPECT_TRUE(std::isnan(y[0])) << set.name;
            EXPECT_TRUE(std::isfinite(y[3])) << set.name;
            if (function == ActivationFunction::tanh) {
                EXPECT_EQ(y[1], 1.0F) << set.name;
                EXPECT_EQ(y[2], -1.0F) << set.name;
                continue;
            }
            EXPECT_EQ(y[1], kInfinity) << set.name;
            EXPECT_TRUE(std::isnan(y[2])) << set.name;  // -infinity * 0, as the formula says
        }
    }
}

/// Where a GatedArgs writes: elsewhere, or over one of its inputs.
enum class Place { apart, gate, x };

int wrong_gated(const std::function<void(const GatedArgs&)>& gated, ActivationFunction function,
                std::int64_t columns, Place place) {
    constexpr std::int64_t kRows = 5;
    const std::int64_t stride = 2 * columns + 3, y_stride = place == Place::apart ? columns + 2 : stride;
    std::vector<float> halves = normal(kRows * stride, 1, 0.0F, 3.0F);  // gate and x side by side
    const std::vector<float> before = halves;
    std::vector<float> apart(at(kRows * y_stride), kPoison);
    for (std::int64_t row = 0; row < kRows; ++row) std::fill_n(apart.begin() + row * y_stride, columns, kNaN);
    float* y = place == Place::apart ? apart.data() : halves.data() + (place == Place::x ? columns : 0);
    gated({function, kRows, columns, halves.data(), stride, halves.data() + columns, stride, y, y_stride});
    int wrong = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
        const float *gate = before.data() + row * stride, *x = gate + columns;
        for (std::int64_t i = 0; i < columns; ++i) {
            const Exact open = exact_activation(function, gate[i]);
            const double bound = open.bound * std::fabs(x[i]) + 2 * kUnit * std::fabs(open.value * x[i]);
            wrong += !(std::fabs(y[row * y_stride + i] - open.value * x[i]) <= bound + 0x1p-149);
        }
        if (place == Place::apart) {
            for (std::int64_t i = columns; i < y_stride; ++i)
                wrong += apart[at(row * y_stride + i)] != kPoison;
        }
        for (std::int64_t i = 0; i < stride; ++i) {
            const bool written = place == Place::gate ? i < columns : i >= columns && i < 2 * columns;
            if (place == Place::apart || !written)
                wrong += halves[at(row * stride + i)] != before[at(row * stride + i)];
        }
    }
    return wrong;
}

TEST(ElementwiseKernels, GatedUnitsWithinBounds) {
    for (const ElementwiseKernels& set : usable()) {
        for (const ActivationFunction function : kFunctions)
            for (const std::int64_t columns : {1, 3, 8, 33, 256, 1001})
                for (const Place place : {Place::apart, Place::gate, Place::x})
                    EXPECT_EQ(wrong_gated(set.gated, function, columns, place), 0)
                        << set.name << " " << columns << " function " << static_cast<int>(function);
    }
    const auto reference = reference::kElementwise.gated;
    const auto broken = [&](auto change) {
        return wrong_gated(
            [&](GatedArgs args) {
                change(args);
                reference(args);
            },
            ActivationFunction::silu, 33, Place::apart);
    };
    EXPECT_NE(broken([](GatedArgs& a) { std::swap(a.gate, a.x); }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.function = ActivationFunction::gelu_tanh; }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.columns -= 1; }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.columns += 1; }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.gate_stride -= 1; }), 0);
    EXPECT_NE(broken([](GatedArgs& a) { a.x_stride = 0; }), 0);
}

int wrong_match(const std::function<void(const MatchNormsArgs&)>& match, std::int64_t columns) {
    constexpr std::int64_t kRows = 7;
    std::vector<float> x = normal(kRows * columns, 1);
    const std::vector<float> like = normal(kRows * columns, 2, 0.0F, 3.0F);
    std::fill_n(x.begin() + 2 * columns, columns, 0.0F);  // has no direction, so it stays
    const std::vector<float> before = x;
    match({kRows, columns, x.data(), like.data()});
    int wrong = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
        double own = 0.0, wanted = 0.0;
        for (std::int64_t i = row * columns; i < (row + 1) * columns; ++i) {
            own += double{before[at(i)]} * before[at(i)];
            wanted += double{like[at(i)]} * like[at(i)];
        }
        for (std::int64_t i = row * columns; i < (row + 1) * columns; ++i) {
            const double exact = row == 2 ? 0.0 : before[at(i)] * std::sqrt(wanted / own);
            wrong += !(std::fabs(x[at(i)] - exact) <= 2 * kUnit * std::fabs(exact));
        }
    }
    return wrong;
}

TEST(ElementwiseKernels, MatchedNormsWithinBounds) {
    for (const ElementwiseKernels& set : usable()) {
        for (const std::int64_t columns : {1, 3, 64, 1001})
            EXPECT_EQ(wrong_match(set.match_norms, columns), 0) << set.name << " " << columns;
    }
    const auto broken = [&](auto change) {
        return wrong_match(
            [&](MatchNormsArgs args) {
                change(args);
                reference::kElementwise.match_norms(args);
            },
            33);
    };
    EXPECT_NE(broken([](MatchNormsArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](MatchNormsArgs& a) { a.columns -= 1; }), 0);
    EXPECT_NE(broken([](MatchNormsArgs& a) { a.like = a.x; }), 0);
}

struct RopeCase {
    std::int64_t heads, head_dim;
    RopePairs pairs;
};

int wrong_rope(const std::function<void(const RopeArgs&)>& rope, const RopeCase& shape) {
    const auto [heads, head_dim, pairs] = shape;
    constexpr std::int64_t kTokens = 5, kRows = 10, kMargin = 3;
    const std::int64_t half = head_dim / 2, stride = heads * head_dim + kMargin;
    std::vector<float> x = normal(kRows * stride, 1);
    const std::vector<float> before = x, cos = normal(kTokens * half, 2), sin = normal(kTokens * half, 3);
    RopeArgs args;
    args.pairs = pairs;
    args.rows = kRows;
    args.tokens = kTokens;
    args.heads = heads;
    args.head_dim = head_dim;
    args.x = x.data();
    args.x_stride = stride;
    args.cos = cos.data();
    args.sin = sin.data();
    rope(args);
    int wrong = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t i = 0; i < stride; ++i) {
            const std::size_t here = at(row * stride + i);
            if (i >= heads * head_dim) {
                wrong += x[here] != before[here];
                continue;
            }
            const bool halves = pairs == RopePairs::halves;
            const std::int64_t in_head = i % head_dim;
            const std::int64_t pair = row % kTokens * half + (halves ? in_head % half : in_head / 2);
            const bool second = halves ? in_head >= half : in_head % 2 == 1;
            const std::size_t partner = halves ? at(half) : 1;
            const double c = cos[at(pair)], s = second ? sin[at(pair)] : -sin[at(pair)];
            const double mine = before[here] * c,
                         other = before[second ? here - partner : here + partner] * s;
            const double bound = 2 * kUnit * (std::fabs(mine) + std::fabs(other)) + 0x1p-149;
            wrong += !(std::fabs(x[here] - (mine + other)) <= bound);
        }
    }
    return wrong;
}

TEST(ElementwiseKernels, RopeWithinBounds) {
    for (const ElementwiseKernels& set : usable()) {
        for (const RopePairs pairs : {RopePairs::neighbours, RopePairs::halves})
            for (const std::int64_t head_dim : {2, 4, 10, 32, 40, 64, 80, 128, 254})
                EXPECT_EQ(wrong_rope(set.rope, {3, head_dim, pairs}), 0) << set.name << " " << head_dim;
    }
    const auto reference = reference::kElementwise.rope;
    const auto broken = [&](auto change) {
        return wrong_rope(
            [&](RopeArgs args) {
                change(args);
                reference(args);
            },
            {3, 10, RopePairs::neighbours});
    };
    EXPECT_NE(broken([](RopeArgs& a) { std::swap(a.cos, a.sin); }), 0);
    EXPECT_NE(broken([](RopeArgs& a) { a.pairs = RopePairs::halves; }), 0);
    EXPECT_NE(broken([](RopeArgs& a) { a.tokens = 3; }), 0);
    EXPECT_NE(broken([](RopeArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](RopeArgs& a) { a.heads -= 1; }), 0);
}

int wrong_residual(const std::function<void(const ResidualArgs&)>& residual, std::int64_t columns,
                   bool gated) {
    constexpr std::int64_t kRows = 6, kRowsPerGate = 3;
    const std::int64_t x_stride = columns + 2, y_stride = gated ? columns + 3 : 0;  // 0: one row for all
    std::vector<float> x = normal(kRows * x_stride, 1);
    const std::vector<float> before = x, y = normal(kRows * (columns + 3), 2),
                             gate = normal(kRows * (columns + 1), 3);
    ResidualArgs args;
    args.rows = kRows;
    args.columns = columns;
    args.x = x.data();
    args.x_stride = x_stride;
    args.y = y.data();
    args.y_stride = y_stride;
    args.gate = gated ? gate.data() : nullptr;
    args.rows_per_gate = kRowsPerGate;
    args.gate_stride = columns + 1;
    residual(args);
    int wrong = 0;
    for (std::int64_t i = 0; i < kRows * x_stride; ++i) {
        const std::int64_t row = i / x_stride, column = i % x_stride;
        if (column >= columns) {
            wrong += x[at(i)] != before[at(i)];
            continue;
        }
        const double g = gated ? gate[at(row / kRowsPerGate * (columns + 1) + column)] : 1.0;
        const double more = y[at(row * y_stride + column)] * g;
        const double bound = 2 * kUnit * (std::fabs(before[at(i)]) + std::fabs(more)) + 0x1p-149;
        wrong += !(std::fabs(x[at(i)] - (before[at(i)] + more)) <= bound);
    }
    return wrong;
}

TEST(ElementwiseKernels, ResidualWithinBounds) {
    for (const ElementwiseKernels& set : usable()) {
        for (const std::int64_t columns : {1, 7, 33, 256, 1001}) {
            EXPECT_EQ(wrong_residual(set.residual, columns, true), 0) << set.name << " " << columns;
            EXPECT_EQ(wrong_residual(set.residual, columns, false), 0) << set.name << " " << columns;
        }
    }
    const auto reference = reference::kElementwise.residual;
    const auto broken = [&](auto change) {
        return wrong_residual(
            [&](ResidualArgs args) {
                change(args);
                reference(args);
            },
            7, true);
    };
    EXPECT_NE(broken([](ResidualArgs& a) { a.gate = nullptr; }), 0);
    EXPECT_NE(broken([](ResidualArgs& a) { a.rows_per_gate = 2; }), 0);
    EXPECT_NE(broken([](ResidualArgs& a) { a.gate_stride -= 1; }), 0);
    EXPECT_NE(broken([](ResidualArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](ResidualArgs& a) { a.y_stride = 0; }), 0);
    EXPECT_NE(broken([](ResidualArgs& a) { a.x_stride -= 1; }), 0);
}

TEST(ElementwiseKernels, SumsAreRoundedAsTheySay) {
    constexpr std::int64_t kCount = 40000;
    std::vector<std::vector<float>> x;
    for (unsigned i = 0; i < CombineArgs::kMostTerms; ++i) x.push_back(normal(kCount, i));
    for (const ElementwiseKernels& set : usable()) {
        for (std::size_t terms = 1; terms <= CombineArgs::kMostTerms; ++terms) {
            for (const bool wide : {false, true}) {
                std::vector<float> y(kCount + 1, kPoison);
                CombineArgs args;
                args.count = kCount;
                args.terms = terms;
                args.y = y.data();
                args.wide = wide;
                for (std::size_t term = 0; term < terms; ++term) {
                    args.factor[term] = 1.0 / (3.0 + static_cast<double>(term));
                    args.x[term] = x[term].data();
                }
                set.combine(args);
                EXPECT_EQ(y.back(), kPoison);
                for (std::size_t i = 0; i < at(kCount); ++i) {
                    double sum = 0.0;
                    float rounded = 0.0F;
                    for (std::size_t term = 0; term < terms; ++term) {
                        sum += args.factor[term] * static_cast<double>(x[term][i]);
                        const float product = static_cast<float>(args.factor[term]) * x[term][i];
                        rounded = term == 0 ? product : rounded + product;
                    }
                    ASSERT_EQ(y[i], wide ? static_cast<float>(sum) : rounded) << set.name << " " << i;
                }
            }
        }
    }
}

TEST(ElementwiseKernels, CopiesOfAnyStrides) {
    constexpr std::int64_t kShape[] = {3, 5, 4, 7};
    const std::vector<float> x = normal(3 * 5 * 4 * 7, 1);
    for (const ElementwiseKernels& set : usable()) {
        for (const bool to_half : {false, true}) {
            std::vector<float> y(x.size() + 1, kPoison);
            std::vector<BFloat16> half(x.size() + 1, BFloat16{0x4242});
            CopyArgs args;  // the axes in the order 2, 0, 3, 1 on the side of x
            args.axes = 4;
            args.shape = {4, 3, 7, 5};
            args.x_strides = {7, 140, 1, 28};
            args.y_strides = {105, 35, 5, 1};
            args.x = x.data();
            args.y = to_half ? static_cast<void*>(half.data()) : y.data();
            args.y_type = to_half ? DType::bf16 : DType::f32;
            set.copy(args);
            EXPECT_EQ(y.back(), kPoison);
            EXPECT_EQ(half.back().bits, 0x4242);
            std::size_t place = 0;
            for (std::int64_t c = 0; c < kShape[2]; ++c)
                for (std::int64_t a = 0; a < kShape[0]; ++a)
                    for (std::int64_t d = 0; d < kShape[3]; ++d)
                        for (std::int64_t b = 0; b < kShape[1]; ++b, ++place) {
                            const float wanted = x[at(((a * 5 + b) * 4 + c) * 7 + d)];
                            if (to_half) {
                                ASSERT_EQ(half[place].bits, to_bfloat16(wanted).bits) << set.name;
                            } else {
                                ASSERT_EQ(y[place], wanted) << set.name;
                            }
                        }
        }
    }
}

TEST(ElementwiseKernels, OneValueThatIsNotFiniteIsEnough) {
    for (const ElementwiseKernels& set : usable()) {
        std::vector<float> x = normal(40001, 1);
        x[7] = std::numeric_limits<float>::max();
        EXPECT_TRUE(set.all_finite({x.data(), 40001})) << set.name;
        for (const std::size_t place : {std::size_t{0}, std::size_t{20000}, std::size_t{40000}}) {
            for (const float bad : {kNaN, kInfinity, -kInfinity}) {
                const float before = std::exchange(x[place], bad);
                EXPECT_FALSE(set.all_finite({x.data(), 40001})) << set.name << " " << place;
                x[place] = before;
            }
        }
        EXPECT_TRUE(set.all_finite({x.data(), 40000}));
    }
}

TEST(ElementwiseKernels, SameBitsForAnyNumberOfThreads) {
    const int threads = num_threads();
    const std::vector<float> x = normal(50001, 1);
    for (const ElementwiseKernels& set : usable()) {
        std::vector<std::vector<float>> norms, activations;
        NormRun run({NormKind::layer, 301, 257, 7, true, false, true, true});
        for (const int count : {1, 2, 3, 5}) {
            set_num_threads(count);
            norms.push_back(run.run(set.norm));
            std::vector<float>& y = activations.emplace_back(x.size());
            set.activation(
                {ActivationFunction::gelu_tanh, x.data(), y.data(), static_cast<std::int64_t>(x.size())});
            EXPECT_EQ(norms.back(), norms.front()) << set.name;
            EXPECT_EQ(y, activations.front()) << set.name;
        }
    }
    set_num_threads(threads);
}

}  // namespace
}  // namespace aerogel
