// Every Hadamard kernel of this CPU level against the definition in double, within a bound computed from the
// data; odd numbers of groups, strides, poisoned margins.
#include "kernels/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu_kernels.h"
#include "kernels/reference/kernels.h"

namespace aerogel {
namespace {

constexpr float kPoison = -12345.5F;

struct Case {
    std::int64_t rows, groups, block;
    bool signs;
    RotationKind kind = RotationKind::hadamard;
};

std::vector<float> normal(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> values;
    std::vector<float> out(count);
    for (float& x : out) x = values(random) * (random() % 50 == 0 ? 1000.0F : 1.0F);
    return out;
}

// Rows of x and y are 3 and 5 floats longer than their columns; the largest error over its bound.
double worst_error(const Case& c, void (*run)(const HadamardArgs&) noexcept) {
    const std::int64_t columns = c.groups * c.block;
    const auto size = [&](std::int64_t margin) {
        return static_cast<std::size_t>(c.rows * (columns + margin));
    };
    const std::vector<float> x = normal(size(3), 1);
    std::vector<float> signs(static_cast<std::size_t>(columns)), y(size(5), kPoison),
        expected(size(5), kPoison);
    std::mt19937 random(2);
    for (float& sign : signs) sign = random() % 2 == 0 ? 1.0F : -1.0F;
    HadamardArgs args{c.rows,      columns,  c.block,     x.data(),
                      columns + 3, y.data(), columns + 5, c.signs ? signs.data() : nullptr};
    args.kind = c.kind;
    run(args);
    args.y = expected.data();
    reference::kHadamard.run(args);
    double worst = 0.0;
    for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t k = 0; k < columns + 5; ++k) {
            const auto at = static_cast<std::size_t>(r * (columns + 5) + k);
            if (k >= columns) {
                EXPECT_EQ(y[at], kPoison);
                continue;
            }
            double sum = 0.0;
            for (std::int64_t j = k / c.block * c.block; j < (k / c.block + 1) * c.block; ++j) {
                sum += std::fabs(static_cast<double>(x[static_cast<std::size_t>(r * (columns + 3) + j)]));
            }
            // One rounding per pass, and those of the scale, the product and the reference's store.
            const double passes = std::log2(static_cast<double>(c.block)) + 4.0;
            const double bound = passes * 0x1p-24 * sum / std::sqrt(static_cast<double>(c.block));
            const double error = std::fabs(static_cast<double>(y[at]) - static_cast<double>(expected[at]));
            worst = std::max(worst, error == 0.0 ? 0.0 : error / bound);
            if (std::isnan(y[at])) worst = std::numeric_limits<double>::infinity();
        }
    }
    return worst;
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const std::int64_t block : {1, 2, 4, 8, 16, 32, 128, 1024}) {
        all.push_back({3, 1, block, false});
        all.push_back({2, 5, block, true});
    }
    for (const std::int64_t block : {1, 4, 16, 64, 256, 1024}) {
        all.push_back({3, 1, block, false, RotationKind::convrot});
        all.push_back({2, 3, block, true, RotationKind::convrot});
    }
    return all;
}

TEST(Hadamard, EveryKernelMatchesTheDefinition) {
    for (const HadamardKernel& kernel : testing::usable(testing::machine_under_test().hadamard)) {
        for (const Case& c : cases()) {
            if (!kernel.why_not({c.kind}).empty()) continue;
            EXPECT_LE(worst_error(c, kernel.run), 1.0)
                << kernel.name << " block " << c.block << " groups " << c.groups;
        }
    }
}

void forgets_a_pass(const HadamardArgs& args) noexcept {
    HadamardArgs half = args;
    half.block = args.block / 2;
    reference::kHadamard.run(half);
}

TEST(Hadamard, TheBoundCatchesAMissingPass) {
    for (const Case& c : cases()) {
        if (c.block == 1) continue;
        EXPECT_GT(worst_error(c, forgets_a_pass), 1.0) << c.block;
    }
}

TEST(Hadamard, EveryKernelGivesTheSameBits) {
    for (const Case& c : cases()) {
        const std::int64_t columns = c.groups * c.block;
        const std::vector<float> x = normal(static_cast<std::size_t>(c.rows * columns), 7);
        const std::vector<float> factors = normal(static_cast<std::size_t>(columns), 8);
        std::vector<float> first;
        std::vector<std::reference_wrapper<const HadamardKernel>> kernels = {baseline::kHadamard};
        for (const HadamardKernel& kernel : testing::usable(testing::machine_under_test().hadamard))
            if (!kernel.name.starts_with("reference")) kernels.emplace_back(kernel);
        for (const HadamardKernel& kernel : kernels) {
            std::vector<float> y(x.size());
            HadamardArgs args{c.rows,  columns,  c.block, x.data(),
                              columns, y.data(), columns, c.signs ? factors.data() : nullptr};
            args.kind = c.kind;
            kernel.run(args);
            if (first.empty()) first = y;
            EXPECT_EQ(y, first) << kernel.name << " block " << c.block;
        }
    }
}

void takes_sylvester_for_convrot(const HadamardArgs& args) noexcept {
    HadamardArgs other = args;
    other.kind = RotationKind::hadamard;
    reference::kHadamard.run(other);
}

TEST(Hadamard, TheBoundTellsTheKindsApart) {
    for (const Case& c : cases()) {
        if (c.kind == RotationKind::hadamard || c.block == 1) continue;
        EXPECT_GT(worst_error(c, takes_sylvester_for_convrot), 1.0) << c.block;
    }
}

TEST(Hadamard, AKernelOfOneKindRefusesTheOther) {
    const HadamardKernel old = {"toy", takes_sylvester_for_convrot};
    EXPECT_EQ(old.why_not({RotationKind::hadamard}), "");
    EXPECT_NE(old.why_not({RotationKind::convrot}), "");
}

// The first row of [[1,1,1,-1],[1,1,-1,1],[1,-1,1,1],[-1,1,1,1]] / 2 by itself is -1/2 at its end.
TEST(Hadamard, TheReferenceOfConvrotIsItsMatrix) {
    std::vector<float> x(16), y(16);
    x[7] = 4.0F;
    HadamardArgs args{1, 16, 16, x.data(), 16, y.data(), 16, nullptr};
    args.kind = RotationKind::convrot;
    reference::kHadamard.run(args);
    EXPECT_EQ(y, (std::vector<float>{-1, 1, 1, 1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1}));
}

TEST(Hadamard, TheReferenceOfOnesIsTheFirstColumn) {
    const std::vector<float> x(8, 1.0F);
    std::vector<float> y(8);
    reference::kHadamard.run({1, 8, 4, x.data(), 8, y.data(), 8, nullptr});
    EXPECT_EQ(y, (std::vector<float>{2, 0, 0, 0, 2, 0, 0, 0}));
}

}  // namespace
}  // namespace aerogel
