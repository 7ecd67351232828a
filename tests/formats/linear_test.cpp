// Every quantized format in a weight-only linear layer: y is the product with the dequantized matrix.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/format_cases.h"
#include "formats/fp8.h"
#include "formats/int4.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_dual.h"
#include "formats/mxfp8.h"
#include "ops/linear.h"

namespace aerogel {
namespace {

constexpr std::int64_t kM = 3;
constexpr std::int64_t kN = 5;
constexpr std::int64_t kK = 525;  // odd; two dual blocks, the last MX block short

Tensor wave(const Shape& shape, float step) {
    Tensor tensor(DType::f32, shape);
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
        tensor.mutable_as<float>()[i] = std::sin(static_cast<float>(i) * step) * 3;
    }
    return tensor;
}

TEST(FormatsInLinear, WeightOnlyEqualsTheDequantizedProduct) {
    const Tensor x = wave({kM, kK}, 0.37F);
    const Tensor w = wave({kN, kK}, 0.71F);
    const std::vector<QuantizedTensor> weights = {
        encode_int4(w, 0), encode_int4(w, 21), encode_fp8_e4m3(w, 0), encode_fp8_e5m2(w, 25),
        encode_mxfp8(w),   encode_mxfp4(w),    encode_mxfp4_dual(w)};
    for (const QuantizedTensor& weight : weights) {
        const Tensor matrix = dequantize(weight);
        double error = 0;
        for (std::int64_t i = 0; i < w.count(); ++i) {
            error = std::max(error, std::abs(double{matrix.as<float>()[i]} - double{w.as<float>()[i]}));
        }
        EXPECT_LE(error, 1.0) << to_string(weight.format);  // half the widest step of MXFP4 at 3
        const PackedLinear packed(weight, Activation::none);
        Tensor y(DType::f32, {kM, kN});
        std::fill_n(y.mutable_as<float>(), y.count(), NAN);
        packed.run(x, y, Activation::none, {});
        for (std::int64_t i = 0; i < kM; ++i) {
            for (std::int64_t j = 0; j < kN; ++j) {
                double sum = 0, size = 0;
                for (std::int64_t p = 0; p < kK; ++p) {
                    const double product =
                        double{x.as<float>()[i * kK + p]} * double{matrix.as<float>()[j * kK + p]};
                    sum += product;
                    size += std::abs(product);
                }
                // float32 sums: k products and sums, each rounded by half a unit of at most `size`
                EXPECT_NEAR(double{y.as<float>()[i * kN + j]}, sum,
                            static_cast<double>(kK + 1) * std::ldexp(size, -24))
                    << to_string(weight.format) << " " << i << " " << j;
            }
        }
    }
}

TEST(FormatsInLinear, ActivationsOfAnotherKindAreRefused) {
    EXPECT_NO_THROW(PackedLinear(encode_int4(wave({2, 4}, 1), 0), Activation::per_token));
    EXPECT_THROW(PackedLinear(encode_fp8_e4m3(wave({2, 4}, 1), 0), Activation::per_token), Error);
    EXPECT_THROW(PackedLinear(encode_mxfp8(wave({2, 32}, 1)), Activation::per_tensor), Error);
}

}  // namespace
}  // namespace aerogel
