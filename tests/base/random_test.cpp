// Seeded noise: the published Philox vectors, independence of position, and plain statistics.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace aerogel {
namespace {

std::vector<float> normal(std::size_t count, std::uint64_t seed, std::uint64_t stream = 0) {
    std::vector<float> values(count, std::nanf(""));
    fill_normal(values, seed, stream);
    return values;
}

float box_muller(std::uint32_t a, std::uint32_t b, bool cosine) {
    const double radius = std::sqrt(-2.0 * std::log((a + 1.0) / 4294967296.0));
    const double angle = 2.0 * std::numbers::pi * (b + 1.0) / 4294967296.0;
    return static_cast<float>(radius * (cosine ? std::cos(angle) : std::sin(angle)));
}

TEST(Random, FollowsThePublishedPhiloxVectors) {
    // Philox4x32-10, counter 0, key 0, from the known-answer tests of its authors.
    const std::uint32_t zero[] = {0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8};
    const std::vector<float> values = normal(4, 0);
    EXPECT_EQ(values[0], box_muller(zero[0], zero[1], true));
    EXPECT_EQ(values[1], box_muller(zero[0], zero[1], false));
    EXPECT_EQ(values[2], box_muller(zero[2], zero[3], true));
    EXPECT_EQ(values[3], box_muller(zero[2], zero[3], false));
}

TEST(Random, AValueDependsOnItsIndexOnly) {
    const std::vector<float> long_run = normal(1003, 5, 9);
    for (const std::size_t count : {1U, 2U, 3U, 4U, 5U, 1002U}) {
        const std::vector<float> run = normal(count, 5, 9);
        EXPECT_TRUE(std::equal(run.begin(), run.end(), long_run.begin())) << count;
    }
}

TEST(Random, SeedsAndStreamsDiffer) {
    const std::vector<float> base = normal(64, 1, 1);
    EXPECT_NE(base, normal(64, 2, 1));
    EXPECT_NE(base, normal(64, 1, 2));
    EXPECT_NE(base, normal(64, 1 + (std::uint64_t{1} << 32), 1));
    EXPECT_NE(base, normal(64, 1, 1 + (std::uint64_t{1} << 32)));
    EXPECT_EQ(base, normal(64, 1, 1));
}

TEST(Random, IsStandardNormal) {
    const std::size_t count = 1 << 20;
    const std::vector<float> values = normal(count, 42);
    double sum = 0;
    double squares = 0;
    double fourth = 0;
    double neighbours = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double x = values[i];
        ASSERT_TRUE(std::isfinite(x));
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        if (i > 0) neighbours += x * values[i - 1];
    }
    // Standard errors of the estimates: 1, sqrt(2), sqrt(96), 1 over sqrt(count); five of them.
    const double error = 5 / std::sqrt(static_cast<double>(count));
    const auto n = static_cast<double>(count);
    EXPECT_NEAR(sum / n, 0, error);
    EXPECT_NEAR(squares / n, 1, error * std::sqrt(2.0));
    EXPECT_NEAR(fourth / n, 3, error * std::sqrt(96.0));
    EXPECT_NEAR(neighbours / n, 0, error);
}

}  // namespace
}  // namespace aerogel
