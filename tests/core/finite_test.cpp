// Every kind of float, every place in the pieces that threads look at.
#include "core/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aerogel {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = INFINITY;

Tensor filled(DType dtype, std::int64_t count) {
    Tensor tensor(DType::f64, {count});
    for (std::int64_t i = 0; i < count; ++i) tensor.mutable_as<double>()[i] = i % 2 == 0 ? 1.0 : -60000.0;
    return tensor.to(dtype);
}

void set(Tensor& tensor, std::int64_t at, double value) {
    Tensor one(DType::f64, {1});
    one.mutable_as<double>()[0] = value;
    const Tensor stored = one.to(tensor.dtype());
    const auto size = static_cast<std::int64_t>(size_of(tensor.dtype()));
    std::copy_n(static_cast<const std::byte*>(stored.data()), size,
                static_cast<std::byte*>(tensor.mutable_data()) + at * size);
}

TEST(Finite, FindsTheFirstOfEveryType) {
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
        for (const std::int64_t count : {1, 7, 300000, 1000003}) {
            Tensor tensor = filled(dtype, count);
            EXPECT_EQ(first_not_finite(tensor), std::nullopt);
            EXPECT_EQ(finite_problem("x", tensor), "");
            for (const double value : {kNan, kInfinity, -kInfinity}) {
                for (const std::int64_t at : {count - 1, count / 2, std::int64_t{0}}) {
                    set(tensor, at, value);
                    EXPECT_EQ(first_not_finite(tensor), at) << to_string(dtype) << " " << count;
                }
                for (const std::int64_t at : {count - 1, count / 2, std::int64_t{0}}) set(tensor, at, 2.0);
            }
        }
    }
}

TEST(Finite, SaysWhatAndWhere) {
    Tensor tensor = filled(DType::bf16, 6).reshaped({2, 3});
    set(tensor, 4, -kInfinity);
    EXPECT_EQ(finite_problem("a.weight", tensor),
              "'a.weight' bf16[2,3] is not finite: element [1,1] is -inf");
}

TEST(Finite, EmptyAndWholeNumbersAre) {
    EXPECT_EQ(first_not_finite(Tensor(DType::f32, {0, 3})), std::nullopt);
    Tensor whole(DType::u16, {2});
    whole.mutable_as<std::uint16_t>()[0] = whole.mutable_as<std::uint16_t>()[1] = 0xFFFF;
    EXPECT_EQ(first_not_finite(whole), std::nullopt);
}

}  // namespace
}  // namespace aerogel
