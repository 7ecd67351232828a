// Attention formats on inputs that are too small for a scale.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/attention.h"

namespace aerogel {
namespace {

TEST(AttentionRounding, InputsTooSmallForAScaleAreZeros) {
    // 2^-149 / 448 and / 127 are below float32.
    Tensor q(DType::f32, {1, 20, 2, 32}), k(DType::f32, {1, 30, 2, 32});
    std::fill_n(q.mutable_as<float>(), q.count(), std::numeric_limits<float>::denorm_min());
    std::fill_n(k.mutable_as<float>(), k.count(), std::numeric_limits<float>::denorm_min());
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp8,
                              AttentionFormat::mxfp4, AttentionFormat::mix}) {
        Tensor o(DType::f32, q.shape());
        std::fill_n(o.mutable_as<float>(), o.count(), std::numeric_limits<float>::quiet_NaN());
        attention(q, k, k, o, {.format = format});
        for (std::int64_t i = 0; i < o.count(); ++i) EXPECT_LT(std::fabs(o.as<float>()[i]), 1e-40F);
    }
}

}  // namespace
}  // namespace aerogel
