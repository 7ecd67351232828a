// attention(): argument checks, layouts, default scale, empty sizes. The numbers are the kernels' tests'
// matter.
#include "aerogel/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "aerogel/error.h"
#include "base/random.h"
#include "ops/attention.h"
#include "ops/hidden_machine.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

Tensor random_tensor(Shape shape, std::uint64_t seed) {
    Tensor tensor(DType::f32, std::move(shape));
    fill_normal({tensor.mutable_as<float>(), static_cast<std::size_t>(tensor.count())}, seed);
    return tensor;
}

/// The message of the InvalidArgument that `call` throws, or what happened instead.
std::string refusal(const std::function<void()>& call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

struct Arrays {
    Tensor q = random_tensor({2, 5, 3, 8}, 1);
    Tensor k = random_tensor({2, 7, 3, 8}, 2);
    Tensor v = random_tensor({2, 7, 3, 8}, 3);
    Tensor o = Tensor(DType::f32, {2, 5, 3, 8});

    void run(const BlockMask* mask = nullptr, float scale = 0.0F) {
        attention(q, k, v, o, {.mask = mask, .scale = scale});
    }
};

Tensor swap_axes(const Tensor& x) {
    const auto a = x.dim(0), b = x.dim(1), c = x.dim(2), d = x.dim(3);
    Tensor y(DType::f32, {a, c, b, d});
    for (std::int64_t i = 0; i < x.count(); ++i) {
        const std::int64_t rest = i / d, row = rest / (b * c), middle = rest / c % b, inner = rest % c;
        y.mutable_as<float>()[((row * c + inner) * b + middle) * d + i % d] = x.as<float>()[i];
    }
    return y;
}

void expect_same(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.shape(), b.shape());
    for (std::int64_t i = 0; i < a.count(); ++i) ASSERT_EQ(a.as<float>()[i], b.as<float>()[i]) << i;
}

TEST(AttentionOp, BothLayoutsGiveTheSameBits) {
    Arrays a;
    a.run();
    Tensor o(DType::f32, {2, 3, 5, 8});
    attention(swap_axes(a.q), swap_axes(a.k), swap_axes(a.v), o, {.layout = AttentionLayout::bnsd});
    expect_same(swap_axes(o), a.o);
}

TEST(AttentionOp, StridedViewsGiveTheSameBits) {
    Arrays a;
    a.run();
    Tensor joined(DType::f32,
                  {2, 7, 3, 16});  // keys and values side by side, as a fused projection writes them
    for (std::int64_t i = 0; i < a.k.count(); ++i) {
        joined.mutable_as<float>()[i / 8 * 16 + i % 8] = a.k.as<float>()[i];
        joined.mutable_as<float>()[i / 8 * 16 + 8 + i % 8] = a.v.as<float>()[i];
    }
    const Shape strides = {7 * 48, 48, 16, 1};
    const TensorView k = {DType::f32, {2, 7, 3, 8}, joined.data(), strides};
    const TensorView v = {DType::f32, {2, 7, 3, 8}, joined.as<float>() + 8, strides};
    Tensor o(DType::f32, {2, 5, 3, 8});
    attention(a.q, k, v, o);
    expect_same(o, a.o);
}

TEST(AttentionOp, TheDefaultScaleIsOneOverTheRootOfHeadDim) {
    Arrays a, b, c;
    a.run();
    b.run(nullptr, 1.0F / std::sqrt(8.0F));
    expect_same(a.o, b.o);
    c.run(nullptr, 0.5F);
    EXPECT_NE(a.o.as<float>()[0], c.o.as<float>()[0]);
}

// Every head of x twice, one behind the other: [batch, tokens, 2 * heads, head_dim].
Tensor doubled_heads(const Tensor& x) {
    Tensor y(DType::f32, {x.dim(0), x.dim(1), 2 * x.dim(2), x.dim(3)});
    const std::int64_t d = x.dim(3);
    for (std::int64_t i = 0; i < y.count(); ++i)
        y.mutable_as<float>()[i] = x.as<float>()[i / (2 * d) * d + i % d];
    return y;
}

BlockMask mask_of_6_heads() {
    BlockMask mask{2, 6, 5, 7, 2, 3, {0}, {}};
    for (std::int32_t row = 0; row < 2 * 6 * 3; ++row) {
        for (std::int32_t column = 0; column < 3; ++column)
            if ((row * 5 + column * 3 + row / 7) % 4 < 2) mask.columns.push_back(column);
        mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
    }
    return mask;
}

TEST(AttentionOp, GroupedHeadsGiveTheBitsOfRepeatedKeys) {
    Arrays a;  // keys and values of 3 heads
    Tensor q = random_tensor({2, 5, 6, 8}, 4), k = doubled_heads(a.k), v = doubled_heads(a.v);
    const BlockMask mask = mask_of_6_heads();
    for (const BlockMask* used : {static_cast<const BlockMask*>(nullptr), &mask}) {
        for (const bool causal : {false, true}) {
            const AttentionOptions options = {.mask = used, .causal = causal};
            Tensor grouped(DType::f32, q.shape()), repeated(DType::f32, q.shape());
            attention(q, a.k, a.v, grouped, options);
            attention(q, k, v, repeated, options);
            expect_same(grouped, repeated);
            AttentionOptions bnsd = options;
            bnsd.layout = AttentionLayout::bnsd;
            Tensor swapped(DType::f32, {2, 6, 5, 8});
            attention(swap_axes(q), swap_axes(a.k), swap_axes(a.v), swapped, bnsd);
            expect_same(swap_axes(swapped), repeated);
        }
    }
}

TEST(AttentionOp, ACausalRowSeesNoLaterKey) {
    Arrays a, b;  // 5 queries, 7 keys: query i sees keys 0 .. i + 2
    attention(a.q, a.k, a.v, a.o, {.causal = true});
    const std::int64_t row = 3 * 8;
    for (std::int64_t key = 5; key < 7; ++key) {
        for (std::int64_t i = 0; i < row; ++i) {
            b.k.mutable_as<float>()[key * row + i] = 9.0F;
            b.v.mutable_as<float>()[key * row + i] = 9.0F;
        }
    }
    attention(b.q, b.k, b.v, b.o, {.causal = true});
    for (std::int64_t i = 0; i < 5 * row; ++i)
        ASSERT_EQ(a.o.as<float>()[i] == b.o.as<float>()[i], i < 3 * row) << i;
}

TEST(AttentionOp, ABiasBelongsToHeadsAndDistances) {
    Arrays a;  // 5 queries, 7 keys, 3 heads; head h sees the key h + 1 places after the query alone
    std::vector<float> bias(3 * 11, -1e30F);
    for (std::size_t head = 0; head < 3; ++head) bias[head * 11 + 4 + head + 1] = 0.0F;
    attention(a.q, a.k, a.v, a.o, {.bias = Tensor::of(bias, {3, 11})});
    for (std::int64_t query = 0; query < 4; ++query)
        for (std::int64_t i = 0; i < 3 * 8; ++i)
            ASSERT_NEAR(a.o.as<float>()[query * 3 * 8 + i], a.v.as<float>()[(query + i / 8 + 1) * 3 * 8 + i],
                        1e-6)
                << query;
    EXPECT_THAT(refusal([&] {
                    attention(a.q, a.k, a.v, a.o, {.bias = Tensor::of(bias, {11, 3})});
                }),
                HasSubstr("bias must be contiguous f32 [3,11] on the CPU, got f32[11,3]"));
}

TEST(AttentionOp, CentroidsGoWithoutCausalBiasAndCalibratedScales) {
    Arrays a;
    const Tensor bias = Tensor::zeros(DType::f32, {3, 11});
    for (const auto& [options, what] : std::initializer_list<std::pair<AttentionOptions, const char*>>{
             {{.centroids = true, .causal = true}, "centroids of skipped blocks do not go with causal"},
             {{.centroids = true, .bias = bias}, "centroids of skipped blocks do not go with a bias"}})
        EXPECT_THAT(refusal([&] { attention(a.q, a.k, a.v, a.o, options); }), HasSubstr(what));
    attention(a.q, a.k, a.v, a.o, {});
    const Tensor dense = a.o.clone();
    attention(a.q, a.k, a.v, a.o, {.centroids = true});  // nothing is skipped
    EXPECT_TRUE(std::equal(dense.as<float>(), dense.as<float>() + dense.count(), a.o.as<float>()));
}

TEST(AttentionOp, MasksOfKeysAreForCudaAndTokensAsTheyLie) {
    Arrays a;
    const Tensor seen = Tensor::zeros(DType::u8, {2, 7});
    const AttentionOptions options = {.key_mask = seen};
    EXPECT_THROW(attention(a.q, a.k, a.v, a.o, options), Unsupported);
    const Tensor packed = random_tensor({5, 3, 8}, 1);
    Tensor o(DType::f32, {5, 3, 8});
    const std::vector<std::int64_t> lengths = {5};
    EXPECT_THAT(refusal([&] {
                    attention_packed({packed, packed, packed, o, lengths}, options);
                }),
                HasSubstr("packed sequences take no mask of keys"));
    const testing::HiddenDevice device;
    const auto there = [](const Tensor& x) { return x.to(testing::HiddenDevice::kDevice); };
    const Tensor q = there(a.q), k = there(a.k), v = there(a.v), mask = there(seen);
    Tensor to = there(a.o);
    const std::vector<const std::int32_t*> none(6, nullptr);
    EXPECT_THAT(refusal([&] {
                    attention({"attention", q, k, v, to}, {.key_mask = mask}, {none, none});
                }),
                HasSubstr("key_mask does not go with tokens in another order"));
    EXPECT_THAT(refusal([&] { attention(q, k, v, to, options); }),
                HasSubstr("key_mask must be contiguous bool, u8 or i8 [2,7] on cuda:0, got u8[2,7]"));
}

TEST(AttentionOp, TheLogSumExpIsAskedForWithAnArray) {
    Arrays a;
    Tensor lse(DType::f32, {2, 3, 5});
    attention(a.q, a.k, a.v, a.o, {.lse = lse});
    Tensor parts[2] = {Tensor(DType::f32, {2, 3, 5}), Tensor(DType::f32, {2, 3, 5})};
    const auto keys = [](const Tensor& x, std::int64_t first, std::int64_t count) {
        return TensorView{DType::f32, {2, count, 3, 8}, x.as<float>() + first * 24, {168, 24, 8, 1}};
    };
    attention(a.q, keys(a.k, 0, 3), keys(a.v, 0, 3), a.o, {.lse = parts[0]});
    attention(a.q, keys(a.k, 3, 4), keys(a.v, 3, 4), a.o, {.lse = parts[1]});
    for (std::int64_t i = 0; i < lse.count(); ++i)
        EXPECT_NEAR(lse.as<float>()[i],
                    std::log(std::exp(parts[0].as<float>()[i]) + std::exp(parts[1].as<float>()[i])), 1e-5F);
    const std::vector<std::uint8_t> nothing(2 * 3, 0);
    BlockMask geometry;
    geometry.batch = 2;
    geometry.heads = 3;
    geometry.q_len = geometry.block_q = 5;
    geometry.k_len = geometry.block_k = 7;
    const BlockMask none = BlockMask::from_dense(nothing.data(), geometry);
    attention(a.q, a.k, a.v, a.o, {.mask = &none, .lse = lse});
    EXPECT_EQ(lse.as<float>()[29], -std::numeric_limits<float>::infinity());
    Tensor wrong(DType::f32, {2, 5, 3});
    EXPECT_THAT(refusal([&] { attention(a.q, a.k, a.v, a.o, {.lse = wrong}); }),
                HasSubstr("lse must be contiguous f32 [2,3,5] on the CPU, got f32[2,5,3]"));
    for (const AttentionFormat format : {AttentionFormat::int8, AttentionFormat::fp8}) {
        EXPECT_THAT(refusal([&] { attention(a.q, a.k, a.v, a.o, {.lse = lse, .format = format}); }),
                    HasSubstr("lse of a format goes with smooth_k = false and without calibrated scales"));
        attention(a.q, a.k, a.v, a.o, {.lse = lse, .format = format, .smooth_k = false});
        EXPECT_NEAR(lse.as<float>()[0],
                    std::log(std::exp(parts[0].as<float>()[0]) + std::exp(parts[1].as<float>()[0])), 0.3F);
    }
}

TEST(AttentionOp, EmptySizes) {
    Arrays a;
    a.q = Tensor(DType::f32, {2, 0, 3, 8});
    a.o = a.q;
    EXPECT_NO_THROW(a.run());
    Arrays b;
    b.k = b.v = Tensor(DType::f32, {2, 0, 3, 8});
    b.run();
    for (std::int64_t i = 0; i < b.o.count(); ++i) ASSERT_EQ(b.o.as<float>()[i], 0.0F);
}

TEST(AttentionOp, TheOutputSharesNoMemory) {
    Arrays a;
    a.k = a.v = random_tensor({2, 5, 3, 8}, 1);
    for (Tensor* read : {&a.q, &a.k, &a.v})
        EXPECT_THAT(refusal([&] { attention(a.q, a.k, a.v, *read); }),
                    HasSubstr("[attention] o must not share memory with q, k or v (q f32[2,5,3,8]"));
    // q, k, v and o of each token beside each other.
    Tensor all = random_tensor({1, 5, 4, 8}, 2);
    const auto part = [&](int index) -> MutableView {
        return {DType::f32, {1, 5, 1, 8}, all.mutable_as<float>() + 8 * index, {160, 32, 8, 1}, Device::cpu};
    };
    EXPECT_NO_THROW(attention(part(0), part(1), part(2), part(3)));
}

TEST(AttentionOp, AFormatThatIsNotThere) {
    Arrays a;
    const AttentionOptions options = {.format = static_cast<AttentionFormat>(99)};
    EXPECT_THAT(refusal([&] { attention(a.q, a.k, a.v, a.o, options); }),
                HasSubstr("there is no format number 99"));
}

TEST(AttentionOp, WrongShapesAreRefused) {
    const auto changed = [](auto change) {
        return refusal([&] {
            Arrays a;
            change(a);
            a.run();
        });
    };
    EXPECT_THAT(changed([](Arrays& a) {
                    a.q = Tensor(DType::f32, {2, 5, 24});
                }),
                HasSubstr("[attention] q must have 4 axes (q f32[2,5,24], k f32[2,7,3,8]"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.k = random_tensor({2, 7, 4, 8}, 1);
                }),
                HasSubstr("k must have the batch"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.v = random_tensor({2, 6, 3, 8}, 1);
                }),
                HasSubstr("v must have the shape of k"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.o = Tensor(DType::f32, {2, 7, 3, 8});
                }),
                HasSubstr("o must have the shape of q"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.q = Tensor(DType::i32, {2, 5, 3, 8});
                }),
                HasSubstr("q must be f32 or bf16"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.v = Tensor(DType::bf16, {2, 7, 3, 8});
                }),
                HasSubstr("v must have the dtype of q"));
    EXPECT_THAT(changed([](Arrays& a) {
                    a.q = a.o = Tensor(DType::f32, {1, 1, 1, 257});
                    a.k = a.v = Tensor(DType::f32, {1, 2, 1, 257});
                }),
                HasSubstr("head_dim must be 1..256, got 257"));
    EXPECT_THAT(refusal([] {
                    Arrays a;
                    TensorView q = a.q;
                    q.strides = {120, 24, 1, 3};
                    attention(q, a.k, a.v, a.o);
                }),
                HasSubstr("q must be contiguous in its last axis"));
    EXPECT_THAT(refusal([] {
                    Arrays a;
                    TensorView k = a.k;
                    k.device = Device::cuda;
                    attention(a.q, k, a.v, a.o);
                }),
                HasSubstr("k must be on the CPU"));
    EXPECT_THAT(refusal([] {
                    Arrays a;
                    a.run(nullptr, std::numeric_limits<float>::quiet_NaN());
                }),
                HasSubstr("the scale must be finite"));
}

BlockMask full_mask() {
    BlockMask mask;
    mask.batch = 2;
    mask.heads = 3;
    mask.q_len = 5;
    mask.k_len = 7;
    mask.block_q = 4;
    mask.block_k = 4;
    for (std::int64_t row = 0; row <= 12; ++row) mask.row_start.push_back(2 * row);
    for (int row = 0; row < 12; ++row) mask.columns.insert(mask.columns.end(), {0, 1});
    return mask;
}

TEST(AttentionOp, Masks) {
    Arrays a, b;
    BlockMask mask = full_mask();
    a.run();
    b.run(&mask);
    for (std::int64_t i = 0; i < a.o.count(); ++i) ASSERT_NEAR(b.o.as<float>()[i], a.o.as<float>()[i], 1e-5);
    mask.heads = 2;
    EXPECT_THAT(
        refusal([&] { a.run(&mask); }),
        HasSubstr(
            "[attention] the mask must be for batch=2 heads=3 q_len=5 k_len=7, got one for batch=2 heads=2"));
    mask = full_mask();
    mask.columns[3] = 2;
    EXPECT_THAT(refusal([&] { a.run(&mask); }), HasSubstr("["));
    mask = full_mask();
    mask.row_start.assign(13, 0);  // nothing kept at all
    mask.columns.clear();
    a.run(&mask);
    for (std::int64_t i = 0; i < a.o.count(); ++i) ASSERT_EQ(a.o.as<float>()[i], 0.0F);
}

}  // namespace
}  // namespace aerogel
