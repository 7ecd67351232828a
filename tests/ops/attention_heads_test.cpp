// Grouped-query attention: fewer heads of k and v give the bits of the same heads repeated by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "aerogel/error.h"
#include "base/random.h"

namespace aerogel {
namespace {

constexpr std::int64_t kBatch = 2, kHeads = 6, kOwn = 2, kQueries = 37, kKeys = 50, kDim = 24;

Tensor normal(const Shape& shape, std::uint64_t seed) {
    Tensor x(DType::f32, shape);
    fill_normal({x.mutable_as<float>(), static_cast<std::size_t>(x.count())}, seed);
    return x;
}

Shape shape_of(AttentionLayout layout, std::int64_t heads, std::int64_t tokens) {
    return layout == AttentionLayout::bnsd ? Shape{kBatch, heads, tokens, kDim}
                                           : Shape{kBatch, tokens, heads, kDim};
}

// Head h of the result is head h / 3 of x, element by element.
Tensor repeated(const Tensor& x, AttentionLayout layout, std::int64_t tokens) {
    Tensor result(DType::f32, shape_of(layout, kHeads, tokens));
    const auto at = [&](std::int64_t heads, std::int64_t b, std::int64_t h, std::int64_t t) {
        return layout == AttentionLayout::bnsd ? ((b * heads + h) * tokens + t) * kDim
                                               : ((b * tokens + t) * heads + h) * kDim;
    };
    for (std::int64_t b = 0; b < kBatch; ++b) {
        for (std::int64_t h = 0; h < kHeads; ++h) {
            for (std::int64_t t = 0; t < tokens; ++t) {
                std::memcpy(result.mutable_as<float>() + at(kHeads, b, h, t),
                            x.as<float>() + at(kOwn, b, h / 3, t), kDim * sizeof(float));
            }
        }
    }
    return result;
}

Tensor per_head(const std::vector<float>& values) {
    Tensor x(DType::f32, {static_cast<std::int64_t>(values.size()), 1});
    std::copy(values.begin(), values.end(), x.mutable_as<float>());
    return x;
}

bool same_bits(const Tensor& a, const Tensor& b) {
    return std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

class GroupedQueries : public testing::TestWithParam<AttentionLayout> {};

TEST_P(GroupedQueries, GiveTheBitsOfRepeatedHeads) {
    const AttentionLayout layout = GetParam();
    const Tensor q = normal(shape_of(layout, kHeads, kQueries), 1);
    const Tensor k = normal(shape_of(layout, kOwn, kKeys), 2), v = normal(shape_of(layout, kOwn, kKeys), 3);
    const Tensor keys = repeated(k, layout, kKeys), values = repeated(v, layout, kKeys);
    const AttentionScales own = {per_head({.03F, .02F, .03F, .04F, .03F, .03F}),
                                 per_head({.03F, .02F}),
                                 per_head({.04F, .03F}),
                                 {},
                                 per_head({2, -1}),
                                 per_head({0, 3})};
    const AttentionScales all = {own.q_scale,
                                 per_head({.03F, .03F, .03F, .02F, .02F, .02F}),
                                 per_head({.04F, .04F, .04F, .03F, .03F, .03F}),
                                 {},
                                 per_head({2, 2, 2, -1, -1, -1}),
                                 per_head({0, 0, 0, 3, 3, 3})};
    for (const AttentionFormat format :
         {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp4}) {
        for (const bool calibrated : {false, true}) {
            if (calibrated && format != AttentionFormat::int8) continue;
            AttentionOptions options;
            options.layout = layout;
            options.format = format;
            Tensor few(DType::f32, q.shape()), many(DType::f32, q.shape());
            if (calibrated) options.scales = &own;
            attention(q, k, v, few, options);
            if (calibrated) options.scales = &all;
            attention(q, keys, values, many, options);
            EXPECT_TRUE(same_bits(few, many));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GroupedQueries,
                         testing::Values(AttentionLayout::bnsd, AttentionLayout::bsnd));

TEST(GroupedQueriesPacked, SequencesToo) {
    const Tensor q = normal({30, 6, kDim}, 1), k = normal({30, 2, kDim}, 2), v = normal({30, 2, kDim}, 3);
    Tensor o(DType::f32, q.shape());
    const std::vector<std::int64_t> lengths = {11, 19};
    attention_packed({q, k, v, o, lengths}, {.format = AttentionFormat::int8});
    Tensor last(DType::f32, {1, 19, 6, kDim});
    const auto behind = [](const Tensor& x, std::int64_t heads) {
        return TensorView{DType::f32, {1, 19, heads, kDim}, x.as<float>() + 11 * heads * kDim};
    };
    attention(behind(q, 6), behind(k, 2), behind(v, 2), last, {.format = AttentionFormat::int8});
    EXPECT_EQ(std::memcmp(o.as<float>() + 11 * 6 * kDim, last.data(), last.bytes()), 0);
}

TEST(GroupedQueries, HeadsThatDoNotDivideAreRefused) {
    const Tensor q = normal({1, 5, 6, kDim}, 1), four = normal({1, 5, 4, kDim}, 2),
                 two = normal({1, 5, 2, kDim}, 2);
    Tensor o(DType::f32, q.shape());
    EXPECT_THROW(attention(q, two, four, o, {.format = AttentionFormat::int8}), InvalidArgument);
    const std::vector<std::int64_t> lengths = {5};
    for (const auto format : {AttentionFormat::none, AttentionFormat::int8}) {
        const AttentionOptions options = {.format = format};
        EXPECT_THROW(attention(q, four, four, o, options), InvalidArgument);
        EXPECT_THROW(attention_packed({q.reshaped({5, 6, kDim}), four.reshaped({5, 4, kDim}),
                                       four.reshaped({5, 4, kDim}), o.reshaped({5, 6, kDim}), lengths},
                                      options),
                     InvalidArgument);
    }
}

}  // namespace
}  // namespace aerogel
