// rotated_norm() against the formula in double: odd sizes, strided rows, bfloat16, in place, errors.
#include "ops/rotated_norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "aerogel/error.h"

namespace aerogel {
namespace {

Tensor normal(Shape shape, unsigned seed) {
    Tensor tensor(DType::f32, std::move(shape));
    std::mt19937 random(seed);
    std::normal_distribution<float> values;
    for (std::int64_t i = 0; i < tensor.count(); ++i) tensor.mutable_as<float>()[i] = values(random);
    return tensor;
}

/// An output that nothing has been written to yet.
Tensor unwritten(DType dtype, Shape shape) {
    Tensor tensor(dtype, std::move(shape));
    std::memset(tensor.mutable_data(), 0xFF, tensor.bytes());  // NaN in both types
    return tensor;
}

struct Case {
    std::int64_t batch, tokens, heads, head_dim;
    bool weight, per_head = false;
};
const Case kCases[] = {{1, 1, 1, 2, true},       {2, 17, 3, 10, true},       {1, 33, 12, 128, true},
                       {3, 5, 2, 6, false},      {2, 17, 3, 10, true, true}, {1, 33, 12, 128, true, true},
                       {3, 5, 2, 6, false, true}};

class RotatedNormTest : public testing::TestWithParam<Case> {
  protected:
    RotatedNorm args(const Tensor& x, Tensor& y) const {
        RotatedNorm args;
        args.x = x;
        args.y = y;
        if (GetParam().weight) args.weight = weight_;
        args.cos = cos_;
        args.sin = sin_;
        args.heads = GetParam().heads;
        args.per_head = GetParam().per_head;
        args.epsilon = 1e-3F;
        return args;
    }

    std::int64_t columns() const { return GetParam().heads * GetParam().head_dim; }
    Tensor input() const { return normal({GetParam().batch, GetParam().tokens, columns()}, 1); }

    /// The formula for element (row, column) of x [batch * tokens, columns].
    double expected(const float* x, std::int64_t row, std::int64_t column) const {
        const std::int64_t normed_together = GetParam().per_head ? GetParam().head_dim : columns();
        const std::int64_t first = column / normed_together * normed_together;
        double square = 0;
        for (std::int64_t i = first; i < first + normed_together; ++i)
            square += static_cast<double>(x[row * columns() + i]) * x[row * columns() + i];
        const double factor = 1 / std::sqrt(square / static_cast<double>(normed_together) + 1e-3F);
        const auto normed = [&](std::int64_t c) {
            const double w = GetParam().weight ? weight_.as<float>()[c % weight_.count()] : 1.0F;
            return x[row * columns() + c] * factor * w;
        };
        const std::int64_t half = GetParam().head_dim / 2;
        const std::int64_t at = row % GetParam().tokens * half + column % GetParam().head_dim / 2;
        const double c = cos_.as<float>()[at], s = sin_.as<float>()[at];
        return column % 2 == 0 ? normed(column) * c - normed(column + 1) * s
                               : normed(column - 1) * s + normed(column) * c;
    }

    /// The largest difference of y [batch, tokens, columns] to the formula.
    double error(const Tensor& x, const Tensor& y) const {
        double largest = 0;
        for (std::int64_t i = 0; i < y.count(); ++i) {
            const double wanted = expected(x.as<float>(), i / columns(), i % columns());
            largest = std::max(largest, std::abs(y.as<float>()[i] - wanted));
        }
        return largest;
    }

    Tensor weight_ = normal({GetParam().per_head ? GetParam().head_dim : columns()}, 2);
    Tensor cos_ = normal({GetParam().tokens, GetParam().head_dim / 2}, 3);
    Tensor sin_ = normal({GetParam().tokens, GetParam().head_dim / 2}, 4);
};

TEST_P(RotatedNormTest, IsTheFormula) {
    const Tensor x = input();
    Tensor y = unwritten(DType::f32, x.shape());
    rotated_norm(args(x, y));
    EXPECT_LT(error(x, y), 1e-5);
    Tensor both = x.clone();
    rotated_norm(args(both, both));
    EXPECT_EQ(std::memcmp(both.data(), y.data(), y.bytes()), 0);
}

TEST_P(RotatedNormTest, BFloat16IsRoundedOnce) {
    const Tensor x = input().to(DType::bf16), wide = x.to(DType::f32);
    Tensor y = unwritten(DType::bf16, x.shape()), exact = unwritten(DType::f32, x.shape());
    rotated_norm(args(x, y));
    rotated_norm(args(wide, exact));
    EXPECT_EQ(std::memcmp(y.data(), exact.to(DType::bf16).data(), y.bytes()), 0);
}

TEST_P(RotatedNormTest, RowsMayLieApart) {
    const Tensor x = input();
    Tensor y = unwritten(DType::f32, x.shape()), wanted = unwritten(DType::f32, x.shape());
    rotated_norm(args(x, wanted));
    const std::int64_t row = 3 * columns(), rows = GetParam().batch * GetParam().tokens;
    Tensor apart = unwritten(DType::f32, {rows, row});
    for (std::int64_t r = 0; r < rows; ++r)
        std::copy_n(x.as<float>() + r * columns(), columns(),
                    apart.mutable_as<float>() + r * row + columns());
    RotatedNorm strided = args(x, y);
    strided.x.data = apart.as<float>() + columns();
    strided.x.strides = {GetParam().tokens * row, row, 1};
    rotated_norm(strided);
    EXPECT_EQ(std::memcmp(y.data(), wanted.data(), y.bytes()), 0);
}

INSTANTIATE_TEST_SUITE_P(Sizes, RotatedNormTest, testing::ValuesIn(kCases));

TEST(RotatedNorm, NaNsMakeTheirRowNaN) {
    Tensor x = normal({1, 3, 8}, 1), angles = normal({3, 2}, 2);
    x.mutable_as<float>()[16] = std::numeric_limits<float>::quiet_NaN();
    const Tensor half = x.to(DType::bf16);
    Tensor y = unwritten(DType::bf16, {1, 3, 8});
    rotated_norm({half, y, {}, angles, angles, 2});
    const Tensor wide = y.to(DType::f32);
    EXPECT_TRUE(std::isfinite(wide.as<float>()[0]));
    EXPECT_TRUE(std::isfinite(wide.as<float>()[15]));
    for (int i = 16; i < 24; ++i) EXPECT_TRUE(std::isnan(wide.as<float>()[i]));
}

std::string message(const RotatedNorm& args) {
    try {
        rotated_norm(args);
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "";
}

TEST(RotatedNorm, SaysWhatDoesNotFit) {
    Tensor x = normal({1, 3, 8}, 1), y(DType::f32, {1, 3, 8}), angles = normal({3, 2}, 2);
    const RotatedNorm good = {x, y, {}, angles, angles, 2};
    EXPECT_EQ(message(good), "");
    RotatedNorm bad = good;
    bad.heads = 3;
    EXPECT_NE(message(bad).find("heads must divide the columns into even sizes, got 3 heads (x f32[1,3,8])"),
              std::string::npos);
    bad = good;
    bad.sin = x;
    EXPECT_NE(message(bad).find("sin must be contiguous f32 [3,2], got f32[1,3,8]"), std::string::npos);
    bad = good;
    bad.weight = angles;
    EXPECT_NE(message(bad).find("weight must be contiguous f32 [8], got f32[3,2]"), std::string::npos);
    bad = good;
    bad.y = angles;
    EXPECT_NE(message(bad).find("y must be contiguous and like x"), std::string::npos);
    bad = good;
    bad.cos.device = Device::cuda;
    EXPECT_EQ(message(bad), "[rotated_norm] cos must be on the CPU, got f32[3,2]");
    bad = good;
    bad.x = angles;
    EXPECT_NE(message(bad).find("x must be f32 or bf16 [batch,tokens,columns]"), std::string::npos);
}

}  // namespace
}  // namespace aerogel
