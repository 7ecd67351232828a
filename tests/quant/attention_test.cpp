// The shortest interval against all intervals, and ranges per head over several forwards.
#include "quant/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// Width of the smallest interval [a, b] between two values that holds at least `count` of them.
float smallest_width(const std::vector<float>& values, std::size_t count) {
    float best = std::numeric_limits<float>::infinity();
    for (const float low : values) {
        for (const float high : values) {
            const auto held =
                std::count_if(values.begin(), values.end(), [&](float x) { return x >= low && x <= high; });
            if (static_cast<std::size_t>(held) >= count) best = std::min(best, high - low);
        }
    }
    return best;
}

TEST(AttentionRanges, ShortestIntervals) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (const std::size_t size : {1U, 2U, 7U, 40U}) {
        std::vector<float> values;
        for (std::size_t i = 0; i < size; ++i) values.push_back(normal(random) * (i % 5 == 0 ? 10.0F : 1.0F));
        for (const double ratio : {0.3, 0.8, 0.9999, 1.0}) {
            const auto count =
                std::max<std::size_t>(static_cast<std::size_t>(ratio * static_cast<double>(size)), 1);
            const InputRange range = shortest_range(values, ratio);
            EXPECT_EQ(range.max - range.min, smallest_width(values, count)) << size << " " << ratio;
            EXPECT_GE(std::count_if(values.begin(), values.end(),
                                    [&](float x) { return x >= range.min && x <= range.max; }),
                      static_cast<std::ptrdiff_t>(count));
        }
    }
    EXPECT_THROW(shortest_range({}, 1.0), InvalidArgument);
    EXPECT_THROW(shortest_range({1.0F}, 0.0), InvalidArgument);
}

// Head h of part p is filled with multiples of `step` up to a largest magnitude, and one outlier in 20000.
Tensor part(float first, float second, float outlier) {
    constexpr std::int64_t kTokens = 1250, kDim = 16;
    Tensor x(DType::f32, {1, kTokens, 2, kDim});
    for (std::int64_t i = 0; i < x.count(); ++i) {
        const float largest = i / kDim % 2 == 0 ? first : second;
        x.mutable_as<float>()[i] = largest * static_cast<float>(i % 101 - 50) / 50.0F;
    }
    x.mutable_as<float>()[5] = outlier;
    return x;
}

TEST(AttentionRanges, PerHeadOverForwardsWithoutTheLargestOfQAndK) {
    AttentionRanges ranges;
    ranges.observe("a", part(1, 2, 100), part(3, 4, -100), part(5, 6, 50));
    ranges.observe("a", part(2, 1, 0), part(3, 4, 0), part(5, 6, 0));
    const AttentionScales scales = ranges.scales("a");
    EXPECT_EQ(scales.q_scale.shape(), Shape{2});
    EXPECT_FALSE(scales.q_offset.defined());
    EXPECT_FLOAT_EQ(scales.q_scale.as<float>()[0], 2.0F / 127.0F);
    EXPECT_FLOAT_EQ(scales.q_scale.as<float>()[1], 2.0F / 127.0F);
    EXPECT_FLOAT_EQ(scales.k_scale.as<float>()[0], 3.0F / 127.0F);
    EXPECT_FLOAT_EQ(scales.v_scale.as<float>()[0], 50.0F / 127.0F);
    EXPECT_FLOAT_EQ(scales.v_scale.as<float>()[1], 6.0F / 127.0F);
    EXPECT_THROW(ranges.scales("b"), InvalidArgument);
    EXPECT_THROW(
        ranges.observe("a", part(1, 1, std::numeric_limits<float>::infinity()), part(1, 1, 0), part(1, 1, 0)),
        InvalidArgument);
}

}  // namespace
}  // namespace aerogel
