// The checks of convolutions, the order of PyTorch's weights, and pictures that are doubled first.
#include "ops/convolution.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "core/views.h"
#include "ops/elementwise.h"
#include "ops/hidden_machine.h"

namespace aerogel {
namespace {

Tensor random_tensor(const Shape& shape, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = normal(random);
    return Tensor::of(values, shape);
}

std::string message(const std::function<void()>& call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(Convolution, SaysWhatDoesNotFit) {
    const Tensor weight = random_tensor({4, 3, 3, 3}, 1), bias = random_tensor({4}, 2);
    const Convolution convolution(weight, bias, {.padding = {0, 1, 1}});
    Tensor x = random_tensor({1, 5, 6, 3}, 3), y(DType::f32, {1, 5, 6, 4}), other(DType::f32, {1, 5, 5, 4});
    EXPECT_EQ(message([&] { convolution.run({.x = y, .y = y}); }),
              "[convolution] x must be contiguous f32 [frames,height,width,3], got f32[1,5,6,4] on cpu");
    EXPECT_EQ(message([&] { convolution.run({.x = x, .y = x}); }),
              "[convolution] y must be f32 [frames,height,width,4], got f32[1,5,6,3] on cpu");
    EXPECT_EQ(message([&] { convolution.run({.x = x, .y = y, .add = other}); }),
              "[convolution] add must be like y f32[1,5,6,4], got f32[1,5,5,4] on cpu");
    EXPECT_EQ(message([&] { convolution.run({.x = x, .y = y, .before = other}); }),
              "[convolution] before must be frames like those of x f32[1,5,6,3], got f32[1,5,5,4] on cpu");
    EXPECT_EQ(message([&] { Convolution(bias, bias, {}); }),
              "[convolution] weight must be f32, bf16 or f16 [out,in,height,width] or "
              "[out,in,frames,height,width], got f32[4] on cpu");
    EXPECT_EQ(message([&] { Convolution(weight, random_tensor({5}, 1), {}); }),
              "[convolution] bias must be f32, bf16 or f16 [4], got f32[5] on cpu");
    const Convolution doubled(weight, bias, {.padding = {0, 1, 1}, .doubled = true});
    EXPECT_EQ(message([&] { doubled.run({.x = x, .y = y}); }),
              "[convolution] y must be twice as high and wide as x f32[1,5,6,3], got f32[1,5,6,4] on cpu");
}

/// Element `at` of y, of one frame as wide as x, by the definition, weight as PyTorch has it.
double exact(const Tensor& x, const Tensor& weight, const Tensor& bias, std::int64_t at) {
    const std::int64_t n = at % bias.dim(0), j = at / bias.dim(0) % x.dim(2), i = at / bias.dim(0) / x.dim(2);
    double sum = bias.as<float>()[n];
    for (std::int64_t c = 0; c < x.dim(3); ++c)
        for (std::int64_t tap = 0; tap < 9; ++tap) {
            const std::int64_t line = i + tap / 3 - 1, column = j + tap % 3 - 1;
            if (line < 0 || column < 0 || line >= x.dim(1) || column >= x.dim(2)) continue;
            sum += static_cast<double>(x.as<float>()[(line * x.dim(2) + column) * x.dim(3) + c]) *
                   static_cast<double>(weight.as<float>()[(n * x.dim(3) + c) * 9 + tap]);
        }
    return sum;
}

TEST(Convolution, TakesWeightsOfPyTorch) {
    const Tensor weight = random_tensor({6, 5, 3, 3}, 1), bias = random_tensor({6}, 2);
    const Tensor x = random_tensor({1, 4, 7, 5}, 3);
    Tensor y(DType::f32, {1, 4, 7, 6});
    Convolution(weight, bias, {.padding = {0, 1, 1}}).run({.x = x, .y = y});
    for (std::int64_t i = 0; i < y.count(); ++i)
        EXPECT_NEAR(y.as<float>()[i], exact(x, weight, bias, i), 1e-5);
}

TEST(Convolution, ADoubledPictureIsTheSameAsItsCopy) {
    const Tensor weight = random_tensor({6, 5, 3, 3}, 1), bias = random_tensor({6}, 2);
    const Tensor x = random_tensor({1, 3, 4, 5}, 3);
    Tensor large(DType::f32, {1, 6, 8, 5}), y(DType::f32, {1, 6, 8, 6}), add = random_tensor({1, 6, 8, 6}, 4);
    const auto pixels = [](const auto& view) {
        return part_of(view, 0, {3, 2, 4, 2, 5}, {80, 40, 10, 5, 1});
    };
    copy(part_of(x.view(), 0, {3, 2, 4, 2, 5}, {20, 0, 5, 0, 1}), pixels(large.mutable_view()));
    Convolution(weight, bias, {.padding = {0, 1, 1}, .doubled = true}).run({.x = x, .y = y, .add = add});
    for (std::int64_t i = 0; i < y.count(); ++i)
        EXPECT_NEAR(y.as<float>()[i] - add.as<float>()[i], exact(large, weight, bias, i), 1e-5);
}

TEST(Convolution, RunsOnOtherDevices) {
    const Tensor weight = random_tensor({6, 5, 3, 3}, 1), bias = random_tensor({6}, 2);
    const Tensor x = random_tensor({1, 3, 4, 5}, 3);
    Tensor here(DType::f32, {1, 6, 8, 6});
    const ConvolutionForm form = {.padding = {0, 1, 1}, .doubled = true};
    Convolution(weight, bias, form).run({.x = x, .y = here});
    const testing::HiddenDevice device;
    Tensor there(DType::f32, {1, 6, 8, 6}, testing::HiddenDevice::kDevice);
    const Convolution convolution(weight, bias, form, testing::HiddenDevice::kDevice);
    const Tensor moved = x.to(testing::HiddenDevice::kDevice);
    convolution.run({.x = moved, .y = there});
    const std::vector<float> a = here.values(), b = there.values();
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
}

}  // namespace
}  // namespace aerogel
