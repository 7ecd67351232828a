// What values span: extremes, percentiles as NumPy's, and the values that have none.
#include "quant/algorithms/minmax.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "aerogel/error.h"

namespace aerogel {
namespace {

std::string refusal(const std::vector<float>& values) {
    try {
        range_of(values);
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(Ranges, AreTheExtremes) {
    const std::vector<float> values = {0.5F, -3.25F, 7.0F, -0.0F};
    EXPECT_EQ(range_of(values).min, -3.25F);
    EXPECT_EQ(range_of(values).max, 7.0F);
    const std::vector<float> constant(9, 1.5F);
    EXPECT_EQ(range_of(constant).min, 1.5F);
    EXPECT_EQ(range_of(constant).max, 1.5F);
}

TEST(Ranges, NameTheValueThatIsNotFinite) {
    EXPECT_EQ(refusal({0, 0, std::numeric_limits<float>::quiet_NaN(), 0}),
              "[range] value 2 of 4 is not finite");
    EXPECT_EQ(refusal({0, -std::numeric_limits<float>::infinity()}), "[range] value 1 of 2 is not finite");
    EXPECT_EQ(refusal({}), "[range] there are no values");
}

TEST(Percentiles, LieBetweenNeighbours) {
    const std::vector<float> values = {40, 10, 30, 20};
    EXPECT_EQ(percentile_of(values, 0), 10);
    EXPECT_EQ(percentile_of(values, 50), 25);
    EXPECT_DOUBLE_EQ(percentile_of(values, 90), 37);
    EXPECT_EQ(percentile_of(values, 100), 40);
    EXPECT_EQ(percentile_of({5}, 99), 5);
    EXPECT_THROW(percentile_of({}, 50), InvalidArgument);
    for (const double wrong : {-0.1, 100.1, std::numeric_limits<double>::quiet_NaN()})
        EXPECT_THROW(percentile_of(values, wrong), InvalidArgument);
}

}  // namespace
}  // namespace aerogel
