// Group normalisation, softmax, clamp and the SiLU of norms of every elementwise kernel set of this CPU
// level, against formulas in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "aerogel/threads.h"
#include "kernels/cpu_kernels.h"
#include "kernels/elementwise.h"
#include "kernels/reference/kernels.h"

namespace aerogel {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kPoison = -12345.5F;

std::vector<float> normal_values(std::int64_t count, unsigned seed, float mean = 0.0F) {
    std::mt19937 random(seed);
    std::normal_distribution<float> values(mean, 1.0F);
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& x : out) x = values(random);
    return out;
}

double exact_silu(double x) {
    return x / (1.0 + std::exp(-x));
}

struct GroupNormCase {
    std::int64_t rows, channels, groups;
    bool weight = true, bias = true, silu = false;
    float mean = 0.0F;
};

class GroupNormRun {
  public:
    explicit GroupNormRun(const GroupNormCase& c)
        : case_(c),
          x_(normal_values(c.rows * c.channels, 1, c.mean)),
          weight_(normal_values(c.channels, 2)),
          bias_(normal_values(c.channels, 3)) {}

    template <typename Function>
    std::vector<float> run(const Function& group_norm) const {
        std::vector<float> y(x_.size() + 1, kNaN);
        y.back() = kPoison;
        std::vector<float> scratch(static_cast<std::size_t>(group_norm_floats(case_.rows, case_.channels)));
        GroupNormArgs args = {case_.rows, case_.channels, case_.groups, x_.data(), y.data()};
        args.weight = case_.weight ? weight_.data() : nullptr;
        args.bias = case_.bias ? bias_.data() : nullptr;
        args.silu = case_.silu;
        args.workspace = scratch.data();
        group_norm(args);
        return y;
    }

    /// Sums of 128 rows in float32 around a value of the data, the rest in double: at most 132 units of the
    /// largest distance between two values for the mean, of its square for the variance.
    int wrong(const std::vector<float>& y) const {
        int count = y.back() != kPoison;
        for (std::int64_t group = 0; group < case_.groups; ++group) count += wrong_in(group, y);
        return count;
    }

  private:
    int wrong_in(std::int64_t group, const std::vector<float>& y) const {
        const std::int64_t size = case_.channels / case_.groups;
        std::vector<std::size_t> at;
        for (std::int64_t r = 0; r < case_.rows; ++r)
            for (std::int64_t c = group * size; c < (group + 1) * size; ++c)
                at.push_back(static_cast<std::size_t>(r * case_.channels + c));
        const auto n = static_cast<double>(at.size());
        double mean = 0.0, variance = 0.0, low = x_[at[0]], high = low;
        for (const std::size_t i : at) {
            mean += x_[i] / n;
            low = std::min<double>(low, x_[i]);
            high = std::max<double>(high, x_[i]);
        }
        for (const std::size_t i : at) variance += (x_[i] - mean) * (x_[i] - mean) / n;
        const double factor = 1.0 / std::sqrt(variance + 1e-6), span = high - low;
        const double off = 132 * kUnit * span * factor, wide = 132 * kUnit * span * span * factor * factor;
        int count = 0;
        for (const std::size_t i : at) {
            const std::size_t c = i % static_cast<std::size_t>(case_.channels);
            const double w = case_.weight ? weight_[c] : 1.0, b = case_.bias ? bias_[c] : 0.0;
            const double normed = (x_[i] - mean) * factor;
            double value = normed * w + b;
            double error = std::fabs(w) * (off + std::fabs(normed) * (wide + 4 * kUnit)) +
                           4 * kUnit * (std::fabs(b) + std::fabs(w) * std::fabs(mean) * factor);
            if (case_.silu) {
                value = exact_silu(value);
                error = 1.1 * error + 8 * kUnit * std::fabs(value);
            }
            count += !(std::fabs(y[i] - value) <= error + kUnit * std::fabs(value));
        }
        return count;
    }

    GroupNormCase case_;
    std::vector<float> x_, weight_, bias_;
};

TEST(ElementwiseKernels, GroupNormWithinBounds) {
    const std::vector<GroupNormCase> cases = {{1, 2, 1},
                                              {5, 6, 3, false, false},
                                              {129, 33, 11, true, false, true},
                                              {300, 64, 32},
                                              {40, 512, 32, true, true, true},
                                              {700, 24, 4, false, true},
                                              {257, 130, 1, true, true, true},
                                              {200, 16, 4, true, true, false, 300.0F}};
    for (const GroupNormCase& c : cases) {
        const GroupNormRun run(c);
        for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise))
            EXPECT_EQ(run.wrong(run.run(set.group_norm)), 0)
                << set.name << " " << c.rows << "x" << c.channels;
    }
}

/// Values of a part, with the moments of all rows, that differ from those of the whole by more than the
/// rounding of the moments to float32.
int wrong_part(const GroupNormCase& c, const ElementwiseKernels& finds, const ElementwiseKernels& applies) {
    const std::vector<float> x = normal_values(c.rows * c.channels, 1, c.mean);
    std::vector<float> whole(x.size(), kNaN), part(x.size(), kNaN);
    std::vector<float> moments(static_cast<std::size_t>(2 * c.groups + 1), kPoison);
    std::vector<float> scratch(static_cast<std::size_t>(group_norm_floats(c.rows, c.channels)));
    GroupNormArgs args = {c.rows, c.channels, c.groups, x.data()};
    args.workspace = scratch.data();
    args.found = moments.data();
    finds.group_norm(args);
    args.found = nullptr;
    GroupNormArgs own = args;
    own.y = whole.data();
    reference::kElementwise.group_norm(own);
    const std::int64_t first = c.rows / 2, before = first * c.channels;
    args.moments = moments.data();
    args.rows -= first;
    args.x += before;
    args.y = part.data() + before;
    applies.group_norm(args);
    int wrong = moments.back() != kPoison;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (i < static_cast<std::size_t>(before)) {
            wrong += !std::isnan(part[i]);
            continue;
        }
        const double bound = 140 * kUnit * (1.0 + std::fabs(whole[i])) * (1.0 + std::fabs(double{c.mean}));
        wrong += !(std::fabs(double{part[i]} - whole[i]) <= bound);
    }
    return wrong;
}

TEST(ElementwiseKernels, GroupNormOfAPartTakesTheMomentsOfTheWhole) {
    for (const GroupNormCase& c : {GroupNormCase{300, 12, 4}, GroupNormCase{33, 40, 8, {}, {}, {}, 3.0F}})
        for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise))
            EXPECT_EQ(wrong_part(c, set, set), 0) << set.name;
    ElementwiseKernels broken = reference::kElementwise;
    broken.group_norm = [](const GroupNormArgs& args) noexcept {  // takes x's own
        GroupNormArgs other = args;
        other.moments = nullptr;
        reference::kElementwise.group_norm(other);
    };
    EXPECT_NE(wrong_part({300, 12, 4}, reference::kElementwise, broken), 0);
}

TEST(ElementwiseKernels, BrokenGroupNormsAreCaught) {
    const auto reference = reference::kElementwise.group_norm;
    const GroupNormRun run({150, 12, 4, true, true, true, 0.5F});
    EXPECT_EQ(run.wrong(run.run(reference)), 0);
    const auto broken = [&](auto change) {
        return run.wrong(run.run([&](GroupNormArgs args) {
            change(args);
            reference(args);
        }));
    };
    EXPECT_NE(broken([](GroupNormArgs& a) { a.groups = 2; }), 0);
    EXPECT_NE(broken([](GroupNormArgs& a) { a.rows -= 1; }), 0);
    EXPECT_NE(broken([](GroupNormArgs& a) { a.weight = nullptr; }), 0);
    EXPECT_NE(broken([](GroupNormArgs& a) { a.bias = nullptr; }), 0);
    EXPECT_NE(broken([](GroupNormArgs& a) { a.silu = false; }), 0);
    EXPECT_NE(broken([](GroupNormArgs& a) { a.epsilon = 1e-2F; }), 0);
}

TEST(ElementwiseKernels, GroupNormGivesTheSameBitsForAnyNumberOfThreads) {
    const GroupNormRun run({3000, 40, 8, true, true, true});
    const int before = num_threads();
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        set_num_threads(1);
        const std::vector<float> one = run.run(set.group_norm);
        set_num_threads(3);
        const std::vector<float> three = run.run(set.group_norm);
        set_num_threads(before);
        EXPECT_TRUE(std::equal(one.begin(), one.end(), three.begin())) << set.name;
    }
}

TEST(ElementwiseKernels, NormsEndWithSilu) {
    constexpr std::int64_t kRows = 3, kColumns = 37;
    const std::vector<float> x = normal_values(kRows * kColumns, 1);
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        std::vector<float> plain(x.size()), y(x.size());
        NormArgs args = {NormKind::rms, kRows, kColumns, x.data(), kColumns, plain.data(), kColumns};
        set.norm(args);
        args.y = y.data();
        args.silu = true;
        set.norm(args);
        for (std::size_t i = 0; i < x.size(); ++i) {
            const double exact = exact_silu(plain[i]);
            EXPECT_LE(std::fabs(y[i] - exact), 12 * kUnit * std::fabs(exact)) << set.name;
        }
    }
}

/// A row's weights are off by the rounding of scale * (x - max) and a few units.
int wrong_softmax(const ElementwiseKernels& set, std::int64_t columns, float scale) {
    constexpr std::int64_t kRows = 4;
    const std::int64_t stride = columns + 3;
    std::vector<float> x = normal_values(kRows * stride, 5);
    const std::vector<float> before = x;
    set.softmax({kRows, columns, x.data(), stride, scale});
    int wrong = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
        const float* from = before.data() + row * stride;
        const double largest = *std::max_element(from, from + columns);
        double sum = 0.0;
        for (std::int64_t i = 0; i < columns; ++i) sum += std::exp(scale * (from[i] - largest));
        for (std::int64_t i = 0; i < stride; ++i) {
            const float got = x[static_cast<std::size_t>(row * stride + i)];
            if (i >= columns) {
                wrong += got != from[i];
                continue;
            }
            const double power = scale * (from[i] - largest), value = std::exp(power) / sum;
            const double units = static_cast<double>(columns) + 12 + 3 * std::fabs(power);
            wrong += !(std::fabs(got - value) <= units * kUnit * value + 0x1p-126);
        }
    }
    return wrong;
}

TEST(ElementwiseKernels, SoftmaxWithinBounds) {
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        for (const std::int64_t columns : {1, 3, 16, 33, 100, 1000})
            for (const float scale : {0.05F, 1.0F, 20.0F})
                EXPECT_EQ(wrong_softmax(set, columns, scale), 0) << set.name << " " << columns;
    }
    ElementwiseKernels broken = reference::kElementwise;
    broken.softmax = [](const SoftmaxArgs& args) noexcept {
        SoftmaxArgs other = args;
        other.columns -= 1;
        reference::kElementwise.softmax(other);
    };
    EXPECT_NE(wrong_softmax(broken, 33, 1.0F), 0);
    std::vector<float> row = {1.0F, kNaN, 2.0F};
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        std::vector<float> x = row;
        set.softmax({1, 3, x.data(), 3, 1.0F});
        EXPECT_TRUE(std::isnan(x[0])) << set.name;
    }
}

TEST(ElementwiseKernels, ClampKeepsNaN) {
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        std::vector<float> x = {-2.0F, -1.0F, 0.25F, 1.0F, 3.0F, kNaN, 5.0F};
        set.clamp({x.data(), 6, -1.0F, 1.0F});
        EXPECT_EQ(x[0], -1.0F);
        EXPECT_EQ(x[2], 0.25F);
        EXPECT_EQ(x[4], 1.0F);
        EXPECT_TRUE(std::isnan(x[5]));
        EXPECT_EQ(x[6], 5.0F);
    }
}

TEST(ElementwiseKernels, ClampClearsNaNWhereItIsAskedTo) {
    for (const ElementwiseKernels& set : testing::usable(testing::machine_under_test().elementwise)) {
        std::vector<float> x = {kNaN, -2.0F, -0.5F, 0.25F, -kNaN, 3.0F, kNaN};
        set.clamp({x.data(), 6, -0.5F, 1.0F, true});
        EXPECT_EQ(std::vector<float>(x.begin(), x.begin() + 6),
                  (std::vector<float>{-0.5F, -0.5F, -0.5F, 0.25F, -0.5F, 1.0F}))
            << set.name;
        EXPECT_TRUE(std::isnan(x[6])) << set.name;
    }
}

}  // namespace
}  // namespace aerogel
