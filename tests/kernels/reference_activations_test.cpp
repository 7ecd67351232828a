// The small-float activations of the reference by hand: block scales, ties to even, saturation, short blocks.
#include "kernels/reference/activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace aerogel {
namespace {

using Floats = std::vector<float>;

struct Quantized {
    Floats values;
    Floats factors;
};

Quantized quantized(Activation activation, Floats x, DType dtype = DType::f32) {
    const LinearProblem problem{
        .m = 1, .n = 1, .k = static_cast<std::int64_t>(x.size()), .x = dtype, .activation = activation};
    Quantized result{std::move(x), Floats(static_cast<std::size_t>(activation_factors(problem)), NAN)};
    quantize_row(problem, {result.values.data(), result.factors.data(), activation_width(problem)});
    return result;
}

TEST(ReferenceActivations, Mxfp4) {
    EXPECT_EQ(quantized(Activation::mxfp4, {7.9F, 0.25F, 0.75F, -1.25F, 1.75F, 2.5F, 3.5F, -5}).values,
              (Floats{6, 0, 1, -1, 2, 2, 4, -4}));
    EXPECT_EQ(quantized(Activation::mxfp4, {8, 0.5F, -1.5F, 10}).values, (Floats{8, 0, -2, 8}));
    EXPECT_EQ(quantized(Activation::mxfp4, {3.99F, 0.3F}).values, (Floats{3, 0.25F}));
}

TEST(ReferenceActivations, Mxfp8) {
    EXPECT_EQ(quantized(Activation::mxfp8, {500, 17, 19, -0.001F}).values,
              (Floats{448, 16, 20, -0.001953125F}));
    EXPECT_EQ(quantized(Activation::mxfp8, {0, -0.0F}).values, (Floats{0, 0}));
}

// Every block of 32 has its own scale, the short last one too.
TEST(ReferenceActivations, BlocksAreTheirOwn) {
    Floats x(40, 0.0F);
    x[0] = 1e30F;
    x[1] = 1;
    x[32] = 6;
    x[33] = 1;
    const Floats y = quantized(Activation::mxfp4, x).values;
    EXPECT_EQ(y[1], 0);
    EXPECT_EQ(y[32], 6);
    EXPECT_EQ(y[33], 1);
}

TEST(ReferenceActivations, Fp8PerToken) {
    const Quantized q = quantized(Activation::per_token_fp8, {-224, 8.5F, 9.5F, 1});
    EXPECT_EQ(q.values, (Floats{-448, 16, 20, 2}));
    EXPECT_EQ(q.factors, (Floats{0.5F}));
    EXPECT_EQ(quantized(Activation::per_token_fp8, {0, 0}).factors, (Floats{1}));
}

TEST(ReferenceActivations, DualScales) {
    Floats x(513, 0.0F);
    x[0] = 12;
    x[1] = 5;
    x[512] = -3;
    const Quantized q = quantized(Activation::mxfp4_dual, x);
    EXPECT_EQ(q.factors, (Floats{2, 0.5F}));
    EXPECT_EQ(q.values[0], 6);
    EXPECT_EQ(q.values[1], 2);  // 2.5 is a tie
    EXPECT_EQ(q.values[512], -6);
    x[1] = 5.001F;  // 2.5005, in bfloat16 2.5
    EXPECT_EQ(quantized(Activation::mxfp4_dual, x).values[1], 3);
    EXPECT_EQ(quantized(Activation::mxfp4_dual, x, DType::bf16).values[1], 2);
    EXPECT_EQ(quantized(Activation::mxfp4_dual, Floats(4, 0.0F)).factors, (Floats{1}));
}

TEST(ReferenceActivations, RowsThatAreNotFinite) {
    for (const Activation kind : {Activation::per_token_fp8, Activation::mxfp8, Activation::mxfp4_dual}) {
        const Quantized q = quantized(kind, {1, INFINITY});
        EXPECT_TRUE(std::isnan(q.factors[0]));
        EXPECT_EQ(q.values, (Floats{0, 0}));
    }
}

TEST(ReferenceActivations, Integers) {
    const float x[5] = {-14, 3, 5, -1, 13};
    std::int8_t q[5];
    LinearProblem problem{.m = 1, .n = 1, .k = 5, .activation = Activation::per_token_int4};
    EXPECT_EQ(quantize_row_to_integers(problem, x, q), 2);
    EXPECT_EQ(std::vector<int>(q, q + 5), (std::vector<int>{-7, 2, 2, 0, 6}));
    problem.activation = Activation::per_token;
    EXPECT_EQ(quantize_row_to_integers(problem, x, q), 14.0F / 127);
    EXPECT_EQ(q[0], -127);
}

}  // namespace
}  // namespace aerogel
