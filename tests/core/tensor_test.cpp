// Tensors: storage, shapes, checked access; and Tensor::to between all element types.
#include "aerogel/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

template <typename T>
Tensor one(DType dtype, T value) {
    Tensor tensor(dtype, {1});
    *tensor.mutable_as<T>() = value;
    return tensor;
}

TEST(Tensor, CountsAndNames) {
    EXPECT_EQ(element_count({}), 1);
    EXPECT_EQ(element_count({2, 0, 3}), 0);
    EXPECT_EQ(to_string(Shape{2, 3}), "[2,3]");
    EXPECT_EQ(Tensor(DType::bf16, {2, 3}).describe(), "bf16[2,3]");
    EXPECT_EQ(Tensor(DType::bf16, {2, 3}).bytes(), 12U);
    EXPECT_THAT(error_of([] { element_count({2, -1}); }), HasSubstr("negative size in shape [2,-1]"));
    EXPECT_THAT(error_of([] { element_count({1LL << 40, 1LL << 40}); }), HasSubstr("overflows"));
    EXPECT_THAT(error_of([] { Tensor(DType::f64, {1LL << 62}); }), HasSubstr("too large"));
}

TEST(Tensor, StorageIsAlignedSharedAndCopiedOnRequest) {
    const Tensor tensor = Tensor::zeros(DType::f32, {3, 5});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64, 0U);
    EXPECT_TRUE(Tensor(DType::f32, {0}).defined());
    EXPECT_FALSE(Tensor().defined());
    Tensor same = tensor;  // NOLINT(performance-unnecessary-copy-initialization): that it shares is the point
    same.mutable_as<float>()[7] = 5;
    EXPECT_EQ(tensor.as<float>()[7], 5);
    const Tensor flat = tensor.reshaped({15});
    EXPECT_EQ(flat.data(), tensor.data());
    Tensor copy = tensor.clone();
    copy.mutable_as<float>()[7] = 6;
    EXPECT_EQ(tensor.as<float>()[7], 5);
    EXPECT_THAT(error_of([&] { static_cast<void>(tensor.reshaped({4, 4})); }), HasSubstr("f32[3,5]"));
}

TEST(Tensor, AccessIsChecked) {
    const Tensor tensor = Tensor::zeros(DType::i8, {2});
    EXPECT_NO_THROW(tensor.as<std::int8_t>());
    EXPECT_EQ(error_of([&] { tensor.as<float>(); }), "[tensor] expected f32, got i8[2]");
    EXPECT_THAT(error_of([&] { tensor.as<std::uint8_t>(); }), HasSubstr("expected u8"));
    EXPECT_THAT(error_of([&] { tensor.as<Float8E4M3>(); }), HasSubstr("expected f8_e4m3"));
}

TEST(Tensor, WithoutValuesThereIsNothingToCopy) {
    const Tensor nothing;
    for (const std::string& message : {error_of([&] { static_cast<void>(nothing.clone()); }),
                                       error_of([&] { static_cast<void>(nothing.to(DType::f32)); }),
                                       error_of([&] { static_cast<void>(nothing.to(DType::bf16)); }),
                                       error_of([&] { static_cast<void>(nothing.to(Device::cuda)); }),
                                       error_of([&] { static_cast<void>(nothing.values()); })})
        EXPECT_THAT(message, HasSubstr("the tensor is not defined"));
    EXPECT_FALSE(nothing.to(Device::cpu).defined());
}

TEST(Tensor, WhatIsMovedFromHoldsNothing) {
    Tensor from = Tensor::zeros(DType::i8, {2, 3});
    const void* const data = from.data();
    Tensor made = std::move(from);
    EXPECT_FALSE(from.defined());  // NOLINT(bugprone-use-after-move): that is the point
    EXPECT_EQ(from.shape(), Shape{});
    EXPECT_EQ(made.data(), data);
    Tensor given = Tensor::zeros(DType::f32, {1});
    given = std::move(made);
    EXPECT_FALSE(made.defined());  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(given.describe(), "i8[2,3]");
    Tensor& same = given;
    given = std::move(same);
    EXPECT_EQ(given.data(), data);
}

TEST(Tensor, TypesAxesAndDevicesThatAreNotThere) {
    const Tensor tensor = Tensor::zeros(DType::f32, {2, 3});
    EXPECT_EQ(error_of([&] { tensor.dim(2); }), "[tensor] shape [2,3] has no axis 2");
    EXPECT_EQ(error_of([&] { tensor.view().dim(7); }), "[tensor] shape [2,3] has no axis 7");
    const auto type = static_cast<DType>(77);
    EXPECT_EQ(error_of([&] { size_of(type); }), "[tensor] there is no element type number 77");
    EXPECT_EQ(error_of([&] { to_string(type); }), "[tensor] there is no element type number 77");
    EXPECT_EQ(error_of([&] { Tensor(type, {1}); }), "[tensor] there is no element type number 77");
    EXPECT_THAT(error_of([&] {
                    Tensor(DType::f32, {1}, {DeviceKind::cpu, 3});
                }),
                HasSubstr("the CPU has the index 0, got 3"));
}

TEST(Tensor, OtherNumbersOfStridesThanAxesAreNotContiguous) {
    const Tensor tensor = Tensor::zeros(DType::f32, {2, 3});
    for (const Shape& strides : {Shape{1}, Shape{3, 1, 1}})
        EXPECT_FALSE((TensorView{DType::f32, {2, 3}, tensor.data(), strides}.contiguous()));
    constexpr std::int64_t kHuge = std::int64_t{1} << 62;
    EXPECT_FALSE((TensorView{DType::f32, {2, kHuge, 4}, tensor.data(), {kHuge, 4, 1}}.contiguous()));
}

TEST(Tensor, ContiguousStrides) {
    const auto contiguous = [](Shape shape, Shape strides) {
        return TensorView{DType::f32, std::move(shape), nullptr, std::move(strides), Device::cpu}
            .contiguous();
    };
    EXPECT_TRUE(contiguous({2, 3}, {}));
    EXPECT_TRUE(contiguous({2, 3}, {3, 1}));
    EXPECT_TRUE(contiguous({1, 3}, {99, 1}));
    EXPECT_FALSE(contiguous({2, 3}, {1, 2}));
    EXPECT_FALSE(contiguous({2, 3}, {4, 1}));
}

template <typename T>
T converted(double value, DType dtype) {
    return *one(DType::f64, value).to(dtype).template as<T>();
}

TEST(Convert, FloatsToIntegersRoundToEvenAndSaturate) {
    EXPECT_EQ(converted<std::int8_t>(2.5, DType::i8), 2);
    EXPECT_EQ(converted<std::int8_t>(-3.5, DType::i8), -4);
    EXPECT_EQ(converted<std::int8_t>(127.6, DType::i8), 127);
    EXPECT_EQ(converted<std::int8_t>(-1e300, DType::i8), -128);
    EXPECT_EQ(converted<std::uint8_t>(-1, DType::u8), 0);
    EXPECT_EQ(converted<std::int32_t>(std::nan(""), DType::i32), 0);
    EXPECT_EQ(converted<std::int64_t>(9.3e18, DType::i64), std::numeric_limits<std::int64_t>::max());
    EXPECT_EQ(converted<std::uint64_t>(INFINITY, DType::u64), std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(*one(DType::f32, 2147483648.0F).to(DType::i32).as<std::int32_t>(), 2147483647);
    EXPECT_EQ(*one(DType::f32, 2147483520.0F).to(DType::i32).as<std::int32_t>(), 2147483520);
}

TEST(Convert, IntegersSaturateAndBooleansAreZeroOrOne) {
    EXPECT_EQ(*one<std::int32_t>(DType::i32, 300).to(DType::i8).as<std::int8_t>(), 127);
    EXPECT_EQ(*one<std::int32_t>(DType::i32, -1).to(DType::u64).as<std::uint64_t>(), 0U);
    EXPECT_EQ(*one(DType::u64, ~std::uint64_t{0}).to(DType::i64).as<std::int64_t>(),
              std::numeric_limits<std::int64_t>::max());
    EXPECT_TRUE(converted<bool>(0.1, DType::boolean));
    EXPECT_FALSE(converted<bool>(-0.0, DType::boolean));
    EXPECT_EQ(*one(DType::boolean, true).to(DType::f32).as<float>(), 1.0F);
}

TEST(Tensor, AdoptedConstMemoryIsNeverWritten) {
    const std::array<float, 2> values = {1.0F, 2.0F};
    Tensor adopted(DType::f32, {2}, values.data(), nullptr);
    EXPECT_TRUE(adopted.read_only());
    EXPECT_EQ(adopted.as<float>()[1], 2.0F);
    EXPECT_THROW(adopted.mutable_view(), InvalidArgument);
    Tensor other = adopted.reshaped({2, 1});
    EXPECT_THROW(other.mutable_as<float>(), InvalidArgument);
    Tensor copy = adopted.clone();
    copy.mutable_as<float>()[1] = 3.0F;
    EXPECT_EQ(values[1], 2.0F);
}

// Files may hold any byte for a truth.
TEST(Convert, EveryByteButZeroIsTrue) {
    Tensor bytes(DType::u8, {5});
    std::copy_n(std::array<std::uint8_t, 5>{0, 1, 2, 128, 255}.begin(), 5, bytes.mutable_as<std::uint8_t>());
    const Tensor truths(DType::boolean, {5}, bytes.data(), std::make_shared<Tensor>(bytes));
    const Tensor floats = truths.to(DType::f32), integers = truths.to(DType::i64),
                 halves = truths.to(DType::bf16);
    for (std::int64_t i = 0; i < 5; ++i) {
        EXPECT_EQ(floats.as<float>()[i], i == 0 ? 0.0F : 1.0F);
        EXPECT_EQ(integers.as<std::int64_t>()[i], i == 0 ? 0 : 1);
        EXPECT_EQ(to_float(halves.as<BFloat16>()[i]), i == 0 ? 0.0F : 1.0F);
    }
}

TEST(Tensors, WithoutMemoryThereIsAnErrorOfOurs) {
    EXPECT_THROW(Tensor(DType::f64, {std::int64_t{1} << 45}), Error);
}

TEST(Convert, NarrowingRoundsOnce) {
    // Just above the middle between 1 and the next bf16; through a float it would fall on the middle.
    const double above = 1 + std::ldexp(1.0, -8) + std::ldexp(1.0, -40);
    EXPECT_EQ(to_float(converted<BFloat16>(above, DType::bf16)), 1 + std::ldexp(1.0F, -7));
    EXPECT_EQ(to_float(converted<BFloat16>(-above, DType::bf16)), -1 - std::ldexp(1.0F, -7));
    EXPECT_EQ(to_float(converted<Float16>(2049 + 1e-9, DType::f16)), 2050.0F);
    EXPECT_EQ(to_float(converted<Float16>(2049, DType::f16)), 2048.0F);
    EXPECT_EQ(to_float(converted<Float16>(2051 - 1e-9, DType::f16)), 2050.0F);
    EXPECT_EQ(to_float(converted<Float8E5M2>(1e300, DType::f8_e5m2)), INFINITY);
    EXPECT_TRUE(std::isnan(to_float(converted<Float8E4M3>(1e300, DType::f8_e4m3))));
    const std::int64_t tie = (std::int64_t{1} << 32) + (std::int64_t{1} << 24);  // a tie for bf16
    EXPECT_EQ(to_float(*one(DType::i64, tie).to(DType::bf16).as<BFloat16>()), std::ldexp(1.0F, 32));
    EXPECT_EQ(to_float(*one(DType::i64, tie + 1).to(DType::bf16).as<BFloat16>()),
              std::ldexp(1.0F, 32) + std::ldexp(1.0F, 25));
}

TEST(Convert, EveryPairKeepsSmallWholeNumbers) {
    for (int from = 0; from <= static_cast<int>(DType::f64); ++from) {
        for (int to = 0; to <= static_cast<int>(DType::f64); ++to) {
            const auto source = static_cast<DType>(from);
            const auto target = static_cast<DType>(to);
            if (source == DType::f8_e8m0 || target == DType::f8_e8m0) continue;
            const Tensor value = one(DType::f64, 1.0).to(source).to(target).to(DType::f64);
            EXPECT_EQ(*value.as<double>(), 1.0) << to_string(source) << " to " << to_string(target);
        }
    }
    EXPECT_EQ(*one(DType::f8_e8m0, Float8E8M0{130}).to(DType::f32).as<float>(), 8.0F);
    EXPECT_THAT(error_of<Unsupported>([] { static_cast<void>(one(DType::f32, 1.0F).to(DType::f8_e8m0)); }),
                HasSubstr("f8_e8m0"));
    EXPECT_EQ(Tensor(DType::f32, {0, 2}).to(DType::i8).describe(), "i8[0,2]");
}

TEST(Tensor, ValuesComeAndGo) {
    const std::vector<float> values = {1.0F, 2.0F, 3.0F, 4.0F};
    const Tensor tensor = Tensor::of(values, {2, 2});
    EXPECT_EQ(tensor.values(), values);
    EXPECT_THROW(Tensor::of(values, {3}), InvalidArgument);
    EXPECT_THROW(Tensor().values(), InvalidArgument);
    EXPECT_THROW(tensor.to(DType::bf16).values(), InvalidArgument);
}

}  // namespace
}  // namespace aerogel
