// attention() in few bits: error against double on inputs that are hard to quantize, the roundings of FP8 and
// MX written down once more, calibrated scales, rotation, packed sequences, layouts, argument checks.
#include "aerogel/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "aerogel/error.h"
#include "base/cpu_features.h"
#include "base/random.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;
using Options = AttentionOptions;

float& item(Tensor& x, std::int64_t token, std::int64_t head, std::int64_t c) {
    return x.mutable_as<float>()[(token * x.dim(2) + head) * x.dim(3) + c];
}

const float& item(const Tensor& x, std::int64_t token, std::int64_t head, std::int64_t c) {
    return x.as<float>()[(token * x.dim(2) + head) * x.dim(3) + c];
}

/// One batch in bsnd.
struct Arrays {
    Tensor q, k, v, o;

    Arrays(std::int64_t q_len, std::int64_t k_len, std::int64_t heads, std::int64_t d)
        : q(DType::f32, {1, q_len, heads, d}),
          k(DType::f32, {1, k_len, heads, d}),
          v(DType::f32, {1, k_len, heads, d}),
          o(DType::f32, {1, q_len, heads, d}) {
        std::uint64_t seed = 1;
        for (Tensor* x : {&q, &k, &v})
            fill_normal({x->mutable_as<float>(), static_cast<std::size_t>(x->count())}, seed++);
    }

    Tensor run(const Options& options) const {
        Tensor result(DType::f32, o.shape());
        std::fill_n(result.mutable_as<float>(), result.count(), std::numeric_limits<float>::quiet_NaN());
        attention(q, k, v, result, options);
        return result;
    }

    std::vector<double> exact() const {
        const std::int64_t heads = q.dim(2), d = q.dim(3), keys = k.dim(1);
        std::vector<double> out(static_cast<std::size_t>(q.count()));
        for (std::int64_t row = 0; row < q.dim(1) * heads; ++row) {
            std::vector<double> scores;
            double largest = -HUGE_VAL, total = 0.0;
            for (std::int64_t key = 0; key < keys; ++key) {
                double score = 0.0;
                for (std::int64_t c = 0; c < d; ++c)
                    score += static_cast<double>(item(q, row / heads, row % heads, c)) *
                             static_cast<double>(item(k, key, row % heads, c));
                scores.push_back(score / std::sqrt(static_cast<double>(d)));
                largest = std::max(largest, scores.back());
            }
            for (double& score : scores) total += score = std::exp(score - largest);
            for (std::int64_t key = 0; key < keys; ++key)
                for (std::int64_t c = 0; c < d; ++c)
                    out[static_cast<std::size_t>(row * d + c)] +=
                        scores[static_cast<std::size_t>(key)] / total *
                        static_cast<double>(item(v, key, row % heads, c));
        }
        return out;
    }
};

/// Biases of 3 to 10 deviations in the channels of k, and 0.5 % of all values ten times as large.
Arrays hard_inputs(std::int64_t tokens, std::int64_t d) {
    Arrays arrays(tokens, tokens, 2, d);
    std::vector<float> uniform(static_cast<std::size_t>(2 * d));
    fill_normal(uniform, 9);
    for (Tensor* x : {&arrays.q, &arrays.k, &arrays.v})
        for (std::int64_t i = 17; i < x->count(); i += 200) x->mutable_as<float>()[i] *= 10.0F;
    for (std::int64_t i = 0; i < arrays.k.count(); ++i) {
        const float normal = uniform[static_cast<std::size_t>(i % (2 * d))];
        const float size = 3.0F + 7.0F * std::min(1.0F, std::fabs(normal) / 2.0F);
        arrays.k.mutable_as<float>()[i] += normal < 0.0F ? -size : size;
    }
    return arrays;
}

struct Errors {
    double cosine, relative_l1;
};

Errors errors(const std::vector<double>& exact, const Tensor& got) {
    double dot = 0.0, a = 0.0, b = 0.0, difference = 0.0, size = 0.0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
        const double x = static_cast<double>(got.as<float>()[i]);
        dot += x * exact[i];
        a += x * x;
        b += exact[i] * exact[i];
        difference += std::fabs(x - exact[i]);
        size += std::fabs(exact[i]);
    }
    return {dot / std::sqrt(a * b), difference / size};
}

Tensor hadamard(std::int64_t d) {
    Tensor matrix(DType::f32, {d, d});
    for (std::int64_t i = 0; i < d * d; ++i) {
        const bool odd = __builtin_popcountll(static_cast<unsigned long long>((i / d) & (i % d))) % 2 != 0;
        matrix.mutable_as<float>()[i] = (odd ? -1.0F : 1.0F) / std::sqrt(static_cast<float>(d));
    }
    return matrix;
}

TEST(QuantizedAttention, Int8IsAccurateWhereFp8WithoutSmoothingIsNot) {
    const Arrays arrays = hard_inputs(256, 128);
    const auto exact = arrays.exact();
    const Tensor turn = hadamard(128);
    Options fp8_per_head = {.format = AttentionFormat::fp8, .smooth_k = false};
    fp8_per_head.q_tokens = fp8_per_head.k_tokens = 256;
    struct Row {
        const char* name;
        Options options;
    };
    std::vector<Errors> found;
    for (const Row& row : {
             Row{"int8", {.format = AttentionFormat::int8}},
             Row{"int8, rotated", {.format = AttentionFormat::int8, .q_rotation = turn, .k_rotation = turn}},
             Row{"int8, blocks of 128 and 256, rotated",
                 {.format = AttentionFormat::int8,
                 .q_tokens = 128,
                 .k_tokens = 256,
                 .q_rotation = turn,
                 .k_rotation = turn}},
             Row{"int8, not smoothed", {.format = AttentionFormat::int8, .smooth_k = false}},
             Row{"fp8 per head, not smoothed", fp8_per_head},
             Row{"fp8", {.format = AttentionFormat::fp8}},
             Row{"fp8, rotated", {.format = AttentionFormat::fp8, .q_rotation = turn, .k_rotation = turn}},
             Row{"mxfp8, rotated",
                 {.format = AttentionFormat::mxfp8, .q_rotation = turn, .k_rotation = turn}},
             Row{"mxfp4, rotated",
                 {.format = AttentionFormat::mxfp4, .q_rotation = turn, .k_rotation = turn}},
             Row{"int8_qk", {.format = AttentionFormat::int8_qk}},
             Row{"int8_qk, rotated",
                 {.format = AttentionFormat::int8_qk, .q_rotation = turn, .k_rotation = turn}},
         }) {
        found.push_back(errors(exact, arrays.run(row.options)));
        if (std::getenv("AEROGEL_PRINT_ERRORS") != nullptr)
            std::printf("| %s | %.5f | %.4f |\n", row.name, found.back().cosine, found.back().relative_l1);
    }
    for (const std::size_t int8 : {0U, 1U}) {
        EXPECT_GE(found[int8].cosine, 0.9995);
        EXPECT_LE(found[int8].relative_l1, 0.03);
    }
    const double margin = cpu_level() == CpuLevel::avx2 ? 3.0 : 4.0;  // weights have seven bits there
    EXPECT_LT(margin * found[0].relative_l1, found[4].relative_l1);
    EXPECT_LT(found[6].relative_l1, found[4].relative_l1);
    EXPECT_LT(found[9].relative_l1, found[0].relative_l1);
    EXPECT_LT(found[10].relative_l1, found[1].relative_l1);
}

TEST(QuantizedAttention, SmoothingAbsorbsTheBiasOfK) {
    Arrays arrays(40, 200, 2, 64);
    for (std::int64_t i = 0; i < arrays.k.count(); i += 8) arrays.k.mutable_as<float>()[i] += 100.0F;
    const auto exact = arrays.exact();
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp8}) {
        const double smooth = errors(exact, arrays.run({.format = format})).relative_l1;
        const double rough = errors(exact, arrays.run({.format = format, .smooth_k = false})).relative_l1;
        EXPECT_LT(smooth, format == AttentionFormat::int8 ? 0.02 : 0.1) << static_cast<int>(format);
        EXPECT_LT(5.0 * smooth, rough) << static_cast<int>(format);
    }
}

// --- the roundings, once more ----------------------------------------------------------------------------

/// Nearest number with `mantissa` bits behind the leading one, exponents from `lowest`, up to `top`; ties to
/// even.
double nearest(double x, int mantissa, int lowest, double top) {
    if (x == 0.0) return x;
    const double step = std::exp2(std::max(std::floor(std::log2(std::fabs(x))), double(lowest)) - mantissa);
    return std::clamp(std::nearbyint(x / step) * step, -top, top);
}

Tensor fp8_blocks(const Tensor& x, std::int64_t block) {
    Tensor y = x.clone();
    for (std::int64_t first = 0; first < x.dim(1); first += block) {
        for (std::int64_t head = 0; head < x.dim(2); ++head) {
            float largest = 0.0F;
            const std::int64_t last = std::min(first + block, x.dim(1));
            for (std::int64_t t = first; t < last; ++t)
                for (std::int64_t c = 0; c < x.dim(3); ++c)
                    largest = std::max(largest, std::fabs(item(x, t, head, c)));
            const float scale = largest / 448.0F;
            for (std::int64_t t = first; t < last; ++t)
                for (std::int64_t c = 0; c < x.dim(3); ++c)
                    item(y, t, head, c) =
                        static_cast<float>(
                            nearest(static_cast<double>(item(x, t, head, c) / scale), 3, -6, 448.0)) *
                        scale;
        }
    }
    return y;
}

Tensor mx_blocks(const Tensor& x, bool fp8, bool along_tokens) {
    Tensor y = x.clone();
    const std::int64_t tokens = x.dim(1), d = x.dim(3);
    for (std::int64_t i = 0; i < x.count(); ++i) {
        const std::int64_t c = i % d, head = i / d % x.dim(2), t = i / d / x.dim(2);
        double largest = 0.0;
        for (std::int64_t j = 0; j < 32; ++j) {
            const std::int64_t t2 = along_tokens ? t / 32 * 32 + j : t,
                               c2 = along_tokens ? c : c / 32 * 32 + j;
            if (t2 < tokens && c2 < d)
                largest = std::max(largest, static_cast<double>(std::fabs(item(x, t2, head, c2))));
        }
        const double unit = std::exp2(std::floor(std::log2(largest)) - (fp8 ? 8 : 2));
        const double scaled = static_cast<double>(x.as<float>()[i]) / unit;
        y.mutable_as<float>()[i] =
            static_cast<float>((fp8 ? nearest(scaled, 3, -6, 448.0) : nearest(scaled, 1, 0, 6.0)) * unit);
    }
    return y;
}

TEST(QuantizedAttention, Fp8AndMxRoundAsTheirSpecificationsSay) {
    const Arrays arrays(150, 301, 2, 40);
    Arrays rounded = arrays;
    for (const auto format : {AttentionFormat::fp8, AttentionFormat::mxfp8, AttentionFormat::mxfp4}) {
        const bool is_fp8 = format == AttentionFormat::fp8, wide = format == AttentionFormat::mxfp8;
        rounded.q = is_fp8 ? fp8_blocks(arrays.q, 128) : mx_blocks(arrays.q, wide, false);
        rounded.k = is_fp8 ? fp8_blocks(arrays.k, 256) : mx_blocks(arrays.k, wide, false);
        rounded.v = is_fp8 ? fp8_blocks(arrays.v, 256) : mx_blocks(arrays.v, wide, true);
        const auto exact = rounded.exact();
        const Tensor got = arrays.run({.format = format, .smooth_k = false});
        for (std::size_t i = 0; i < exact.size(); ++i)
            ASSERT_NEAR(got.as<float>()[i], exact[i], 1e-5) << i << " format " << static_cast<int>(format);
    }
}

TEST(AttentionRounding, InputsTooSmallForAScaleAreZeros) {
    // 2^-149 / 448 and / 127 are below float32.
    Tensor q(DType::f32, {1, 20, 2, 32}), k(DType::f32, {1, 30, 2, 32});
    std::fill_n(q.mutable_as<float>(), q.count(), std::numeric_limits<float>::denorm_min());
    std::fill_n(k.mutable_as<float>(), k.count(), std::numeric_limits<float>::denorm_min());
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp8,
                              AttentionFormat::mxfp4, AttentionFormat::mix, AttentionFormat::int8_qk}) {
        Tensor o(DType::f32, q.shape());
        std::fill_n(o.mutable_as<float>(), o.count(), std::numeric_limits<float>::quiet_NaN());
        attention(q, k, k, o, {.format = format});
        for (std::int64_t i = 0; i < o.count(); ++i) EXPECT_LT(std::fabs(o.as<float>()[i]), 1e-40F);
    }
}

// --- options ---------------------------------------------------------------------------------------------

void expect_same(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.count(), b.count());
    for (std::int64_t i = 0; i < a.count(); ++i) ASSERT_EQ(a.as<float>()[i], b.as<float>()[i]) << i;
}

Tensor column(std::vector<float> values) {
    Tensor tensor(DType::f32, {static_cast<std::int64_t>(values.size()), 1});
    std::copy(values.begin(), values.end(), tensor.mutable_as<float>());
    return tensor;
}

TEST(QuantizedAttention, RotationIsARightFactor) {
    // A permutation with signs is exact, so rotating must give what rotated inputs give, bit by bit.
    const Arrays arrays(40, 70, 2, 36);
    Tensor turn = Tensor::zeros(DType::f32, {36, 36});
    Arrays turned = arrays;
    turned.q = arrays.q.clone();
    turned.k = arrays.k.clone();
    for (std::int64_t i = 0; i < 36; ++i) {
        const std::int64_t to = (i * 5 + 3) % 36;
        const float sign = i % 3 == 0 ? -1.0F : 1.0F;
        turn.mutable_as<float>()[i * 36 + to] = sign;
        for (std::int64_t head = 0; head < 2; ++head) {
            for (std::int64_t t = 0; t < 40; ++t)
                item(turned.q, t, head, to) = sign * item(arrays.q, t, head, i);
            for (std::int64_t t = 0; t < 70; ++t)
                item(turned.k, t, head, to) = sign * item(arrays.k, t, head, i);
        }
    }
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp4})
        expect_same(arrays.run({.format = format, .q_rotation = turn, .k_rotation = turn}),
                    turned.run({.format = format}));
}

TEST(QuantizedAttention, CalibratedScalesAndOffsets) {
    Arrays arrays(50, 90, 2, 32);
    // Whole numbers times a scale, minus an offset: exact but for the weights.
    for (Tensor* x : {&arrays.q, &arrays.k, &arrays.v})
        for (std::int64_t i = 0; i < x->count(); ++i)
            x->mutable_as<float>()[i] =
                std::clamp(std::nearbyint(x->as<float>()[i] * 30.0F), -120.0F, 110.0F) / 32.0F;
    AttentionScales scales;
    scales.q_scale = scales.k_scale = scales.v_scale = column({0x1p-5F, 0x1p-5F});
    scales.q_offset = scales.k_offset = column({5.0F, -3.0F});
    scales.v_offset = column({0.0F, 7.0F});
    const auto exact = arrays.exact();
    Errors e = errors(exact, arrays.run({.format = AttentionFormat::int8, .scales = &scales}));
    const bool seven_bits = cpu_level() == CpuLevel::avx2;  // of the weights
    EXPECT_GT(e.cosine, seven_bits ? 0.9999 : 0.99998);
    EXPECT_LT(e.relative_l1, seven_bits ? 0.01 : 0.006);
    scales.v_scale = column({0x1p-5F, 0x1p-7F});  // clamps the values of head 1
    EXPECT_GT(errors(exact, arrays.run({.format = AttentionFormat::int8, .scales = &scales})).relative_l1,
              0.05);
    item(arrays.q, 3, 1, 0) = std::numeric_limits<float>::infinity();
    const Tensor o = arrays.run({.format = AttentionFormat::int8, .scales = &scales});
    EXPECT_TRUE(std::isnan(item(o, 3, 1, 31)));
    EXPECT_FALSE(std::isnan(item(o, 3, 0, 31)) || std::isnan(item(o, 4, 1, 31)));
}

TEST(QuantizedAttention, LayoutsAndTypes) {
    const Arrays arrays(33, 70, 3, 40);
    const auto swap = [](auto view) {  // the view of bsnd storage as bnsd
        const std::int64_t n = view.dim(1), h = view.dim(2), d = view.dim(3);
        view.shape = {1, h, n, d};
        view.strides = {n * h * d, d, h * d, 1};
        return view;
    };
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp8}) {
        Tensor o(DType::f32, arrays.o.shape());
        attention(swap(arrays.q.view()), swap(arrays.k.view()), swap(arrays.v.view()), swap(o.mutable_view()),
                  {.layout = AttentionLayout::bnsd, .format = format});
        expect_same(o, arrays.run({.format = format}));
        Arrays half = arrays;
        const Tensor q = arrays.q.to(DType::bf16), k = arrays.k.to(DType::bf16), v = arrays.v.to(DType::bf16);
        Tensor low(DType::bf16, arrays.o.shape());
        attention(q, k, v, low, {.format = format});
        half.q = q.to(DType::f32);
        half.k = k.to(DType::f32);
        half.v = v.to(DType::f32);
        expect_same(low.to(DType::f32), half.run({.format = format}).to(DType::bf16).to(DType::f32));
    }
}

TEST(QuantizedAttention, PackedSequencesAttendToThemselves) {
    const Arrays all(100, 100, 2, 32);
    const auto flat = [](const Tensor& x) { return x.reshaped({x.dim(1), x.dim(2), x.dim(3)}); };
    for (const auto format : {AttentionFormat::int8, AttentionFormat::mxfp4}) {
        Tensor o(DType::f32, {100, 2, 32});
        const std::vector<std::int64_t> lengths = {37, 0, 1, 62};
        attention_packed({flat(all.q), flat(all.k), flat(all.v), o, lengths}, {.format = format});
        std::int64_t first = 0;
        for (const std::int64_t n : lengths) {
            if (n == 0) continue;
            Arrays one(n, n, 2, 32);
            std::copy_n(all.q.as<float>() + first * 64, n * 64, one.q.mutable_as<float>());
            std::copy_n(all.k.as<float>() + first * 64, n * 64, one.k.mutable_as<float>());
            std::copy_n(all.v.as<float>() + first * 64, n * 64, one.v.mutable_as<float>());
            Tensor part(DType::f32, {1, n, 2, 32});
            std::copy_n(o.as<float>() + first * 64, n * 64, part.mutable_as<float>());
            expect_same(part, one.run({.format = format}));
            first += n;
        }
    }
}

std::string refusal(const std::function<void()>& call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(QuantizedAttention, RefusesWhatDoesNotFit) {
    Arrays a(5, 7, 2, 8);
    const auto message = [&](const Options& options) { return refusal([&] { a.run(options); }); };
    const Tensor small(DType::f32, {4, 4}), square = hadamard(8);
    EXPECT_THAT(message({.format = AttentionFormat::int8, .q_rotation = small, .k_rotation = small}),
                HasSubstr("q_rotation must be f32 or bf16 [8,8]"));
    EXPECT_THAT(message({.format = AttentionFormat::int8, .q_rotation = square}),
                HasSubstr("must be given together"));
    EXPECT_THAT(message({.format = AttentionFormat::int8, .q_tokens = -1}),
                HasSubstr("must not be negative, got -1"));
    EXPECT_THAT(message({.format = AttentionFormat::mxfp8, .k_tokens = 64}),
                HasSubstr("of int8, fp8, mix and int8_qk"));
    AttentionScales scales;
    EXPECT_THAT(message({.format = AttentionFormat::int8, .scales = &scales}),
                HasSubstr("q_scale is missing"));
    scales.q_scale = scales.k_scale = scales.v_scale = column({1.0F, 1.0F});
    EXPECT_THAT(message({.format = AttentionFormat::fp8, .scales = &scales}), HasSubstr("int8 only"));
    scales.k_scale = column({1.0F, 1.0F, 1.0F, 1.0F, 1.0F});
    EXPECT_THAT(message({.format = AttentionFormat::int8, .scales = &scales}),
                HasSubstr("k_scale must be f32[2,1], got f32[5,1]"));
    scales.k_scale = column({1.0F, 0.0F});
    EXPECT_THAT(message({.format = AttentionFormat::int8, .scales = &scales}),
                HasSubstr("k_scale must be positive, got 0.000000 for head 1"));
    scales.k_scale = column({1.0F, 1.0F});
    scales.v_offset = column({0.5F, 1.0F});
    EXPECT_THAT(message({.format = AttentionFormat::int8, .scales = &scales}),
                HasSubstr("v_offset must be a whole number"));
    EXPECT_THAT(refusal([&] { attention(a.q, a.v, a.q, a.o, {.format = AttentionFormat::int8}); }),
                HasSubstr("[quantized_attention] v must have the shape of k"));
    EXPECT_THAT(message({.causal = true, .format = AttentionFormat::int8}),
                HasSubstr("causal goes with format none"));
    EXPECT_THAT(message({.bias = square, .format = AttentionFormat::int8}),
                HasSubstr("a bias goes with format none"));
    EXPECT_THAT(message({.format = AttentionFormat::mxfp8, .v_tokens = 64}), HasSubstr("for the format fp8"));
    EXPECT_THAT(message({.format = AttentionFormat::fp8, .v_channels = -1}), HasSubstr("0 and -1"));
    EXPECT_THAT(message({.format = AttentionFormat::fp8, .mxfp4_scale = {2}}),
                HasSubstr("mxfp4_scale_alg is for the format mxfp4"));
    EXPECT_THAT(message({.format = AttentionFormat::mxfp4, .mxfp4_scale = {1}}),
                HasSubstr("mxfp4_scale_alg must be 0 or 2, got 1"));
    EXPECT_THAT(message({.format = AttentionFormat::mxfp4, .mxfp4_scale = {2, 5.0F}}),
                HasSubstr("must be 0 or in [6, 12], got 5"));
    for (const Options& options :
         {Options{.q_tokens = 1}, Options{.k_tokens = 1}, Options{.q_rotation = square, .k_rotation = square},
          Options{.scales = &scales}})
        EXPECT_THAT(message(options),
                    HasSubstr("[attention] rotations, scales, q_tokens and k_tokens go with a format"));
    Tensor x(DType::f32, {5, 2, 8});
    const std::vector<std::int64_t> wrong = {2, 2}, negative = {6, -1};
    for (const Options& options : {Options{}, Options{.format = AttentionFormat::int8}}) {
        const auto packed = [&](const TensorView& q, std::span<const std::int64_t> lengths) {
            return refusal([&] { attention_packed({q, x, x, x, lengths}, options); });
        };
        EXPECT_THAT(packed(x, wrong), HasSubstr("must sum to 5, got 4"));
        EXPECT_THAT(packed(x, negative), HasSubstr("got 6 after 0"));
        EXPECT_THAT(packed(a.q, wrong), HasSubstr("one shape"));
    }
}

TEST(QuantizedAttention, GroupedHeadsGiveTheBitsOfRepeatedKeys) {
    const Arrays few(70, 90, 2, 32);
    Arrays many(70, 90, 4, 32);
    for (std::int64_t token = 0; token < 90; ++token) {
        for (std::int64_t head = 0; head < 4; ++head) {
            std::memcpy(&item(many.k, token, head, 0), &item(few.k, token, head / 2, 0), 32 * sizeof(float));
            std::memcpy(&item(many.v, token, head, 0), &item(few.v, token, head / 2, 0), 32 * sizeof(float));
        }
    }
    for (const auto format : {AttentionFormat::int8, AttentionFormat::fp8, AttentionFormat::mxfp8,
                              AttentionFormat::mxfp4, AttentionFormat::mix, AttentionFormat::int8_qk}) {
        const Options options = {.format = format};
        const Tensor repeated = many.run(options);
        Tensor grouped(DType::f32, many.o.shape());
        attention(many.q, few.k, few.v, grouped, options);
        ASSERT_EQ(std::memcmp(grouped.data(), repeated.data(), grouped.bytes()), 0);
    }
}

}  // namespace
}  // namespace aerogel
