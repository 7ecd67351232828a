// Wrong arguments of sparse attention and what its messages say; plans as values; the sample ARM looks at;
// names.
#include "aerogel/sparse_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "sparse/parameters.h"
#include "sparse/recognition.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A call that fits: 33 frames of 4 x 4 and 5 text tokens.
struct Request {
    Tensor q = Tensor::zeros(DType::f32, {1, 533, 2, 8});
    Tensor k = Tensor::zeros(DType::f32, {1, 533, 2, 8});
    Tensor v = Tensor::zeros(DType::f32, {1, 533, 2, 8});
    Tensor o = Tensor::zeros(DType::f32, {1, 533, 2, 8});
    TensorView q_view = q.view();
    SparsePattern pattern = {.type = "rf_v2", .sparsity = 0.8, .block_size = 16};
    VideoLayout video = {.latent = {33, 4, 4}, .txt_len = 5};
    SparsePlanOptions options;

    SparsePlan plan() const { return plan_sparse(q_view, k, pattern, video, options); }
    SparsePlan run() {
        SparsePlan made = plan();
        attention({q_view, k, v, o}, made, options.attention);
        return made;
    }
};

std::string message_of(const std::function<void(Request&)>& spoil) {
    Request request;
    spoil(request);
    try {
        request.run();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(SparseAttention, AFittingCallRuns) {
    const SparsePlan plan = Request().run();
    EXPECT_EQ(plan.dense_because, "");
    ASSERT_EQ(plan.heads.size(), 2U);
    EXPECT_EQ(plan.heads[0].type, "block_mean");
    EXPECT_TRUE(plan.predicted);
    EXPECT_GT(plan.seconds, 0.0);
    EXPECT_FALSE(plan.cells.defined());
    // All means are equal, so all blocks tie and stay.
    EXPECT_EQ(plan.density(), 1.0);
}

TEST(SparseAttention, WrongOptionsAreRefused) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const struct {
        std::function<void(Request&)> spoil;
        std::string says;
    } cases[] = {
        {[](Request& r) { r.pattern.sparsity = 1.0; },
         "sparsity must be at least 0 and less than 1, got 1.0"},
        {[](Request& r) { r.pattern.sparsity = -0.1; }, "sparsity must be at least 0"},
        {[&](Request& r) { r.pattern.sparsity = nan; }, "sparsity must be at least 0"},
        {[](Request& r) { r.pattern.block_size = 15; }, "block_size must be 16 to 128, got 15"},
        {[](Request& r) { r.pattern.block_size = 129; }, "block_size must be 16 to 128, got 129"},
        {[](Request& r) { r.pattern.min_recall = 1.5; }, "min_recall must be 0 to 1, got 1.5"},
        {[&](Request& r) { r.pattern.min_recall = nan; }, "min_recall must be 0 to 1"},
        {[](Request& r) { r.pattern.min_recall = 0.5; }, "min_recall goes with rf_v1, got rf_v2"},
        {[](Request& r) { r.pattern.keep_sink = false; }, "keep_sink goes with ada_bsa, got rf_v2"},
        {[](Request& r) {
             r.pattern.type = "ada_bsa";
             r.pattern.protect_first_frame = false;
         },
         "protect_first_frame goes with rf_v1, rf_v2 and rf_v3, got ada_bsa"},
        {[](Request& r) { r.video.txt_len = -1; }, "txt_len must not be negative, got -1"},
        {[](Request& r) { r.video.txt_len = 6; }, "6 + [33,4,4], got 533 (q f32[1,533,2,8])"},
        {[](Request& r) { r.video.txt_len = 600; }, "600 + [33,4,4], got 533"},
        {[](Request& r) {
             r.video.latent = {0, 4, 4};
         },
         "latent_shape must be positive, got [0,4,4]"},
        {[](Request& r) {
             r.video.latent = {33, -4, -4};
         },
         "latent_shape must be positive"},
        {[](Request& r) {
             r.video.latent = {1L << 40, 1L << 40, 4};
         },
         "got 533 (q f32[1,533,2,8])"},
        {[](Request& r) { r.options.attention.layout = AttentionLayout::bnsd; }, "got 2 (q f32[1,533,2,8])"},
        {[](Request& r) { r.options.attention.scale = std::numeric_limits<float>::infinity(); },
         "scale must be finite"},
    };
    for (const auto& [spoil, says] : cases) {
        EXPECT_THAT(message_of(spoil), HasSubstr(says));
        EXPECT_THAT(message_of(spoil), StartsWith("[sparse_attention] "));
    }
}

TEST(SparseAttention, WrongArraysAreRefused) {
    const struct {
        std::function<void(Request&)> spoil;
        std::string says;
    } cases[] = {
        {[](Request& r) {
             r.k = Tensor::zeros(DType::f32, {1, 533, 2, 4});
         },
         "k must have the batch and head_dim of q f32[1,533,2,8], and its heads or a divisor of them, got k "
         "f32[1,533,2,4]"},
        {[](Request& r) {
             r.v = Tensor::zeros(DType::bf16, {1, 533, 2, 8});
         },
         "got v bf16[1,533,2,8]"},
        {[](Request& r) {
             r.o = Tensor::zeros(DType::f32, {1, 532, 2, 8});
         },
         "got o f32[1,532,2,8]"},
        {[](Request& r) { r.q_view.dtype = DType::i32; }, "must be f32 or bf16, got q i32[1,533,2,8]"},
        {[](Request& r) {
             r.q_view.shape = {533, 2, 8};
         },
         "q must have 4 axes, got q f32[533,2,8]"},
        {[](Request& r) {
             r.q_view.strides = {1, 16, 8, 2};
         },
         "must be contiguous, got stride 2"},
        {[](Request& r) {
             r.q_view.strides = {16, 8};
         },
         "q must have 4 strides, got 2"},
        {[](Request& r) { r.q_view.data = nullptr; }, "q has no data"},
        {[](Request& r) { r.q_view.device = Device::cuda; }, "k must be on cuda:0 as q"},
    };
    for (const auto& [spoil, says] : cases) {
        EXPECT_THAT(message_of(spoil), HasSubstr(says));
        EXPECT_THAT(message_of(spoil), StartsWith("[sparse_attention] "));
    }
    EXPECT_THAT(message_of([](Request& r) {
                    r.q = r.k = r.v = r.o = Tensor::zeros(DType::f32, {1, 533, 1, 257});
                    r.q_view = r.q.view();
                }),
                HasSubstr("head_dim must be at most 256, got f32[1,533,1,257]"));
    EXPECT_THAT(message_of([](Request& r) {
                    r.q = r.k = r.v = r.o = Tensor::zeros(DType::f32, {0, 533, 1, 8});
                    r.q_view = r.q.view();
                }),
                HasSubstr("no axis may be empty"));
}

TEST(SparseAttention, MasksByErrorNeedTheValues) {
    const auto message_with = [](const std::function<void(TensorView&)>& change) {
        return message_of([&](Request& r) {
            r.pattern = {.type = "rf_v1", .by_error = true};
            r.options.v = r.v;
            change(r.options.v);
        });
    };
    EXPECT_THAT(message_with([](TensorView& v) { v = {}; }),
                HasSubstr("by_error needs the values: SparsePlanOptions::v"));
    EXPECT_THAT(message_with([](TensorView& v) { v.shape[1] = 532; }),
                HasSubstr("v must have the shape of k f32[1,533,2,8], got v f32[1,532,2,8]"));
    EXPECT_THAT(message_with([](TensorView& v) { v.dtype = DType::bf16; }),
                HasSubstr("v must have the type of q f32[1,533,2,8], got v bf16[1,533,2,8]"));
}

TEST(SparseAttention, ADenseCallTakesNoTimeToPlan) {
    Request request;
    request.pattern.type = "none";
    request.video = {};
    const SparsePlan plan = request.run();
    EXPECT_EQ(plan.dense_because, "sparse type none");
    EXPECT_EQ(plan.seconds, 0.0);
    EXPECT_EQ(plan.density(), 1.0);
}

// A call with content: what is computed differs from head to head.
Request request_with_content() {
    Request request;
    for (Tensor* array : {&request.q, &request.k, &request.v}) {
        std::uint32_t state = 12345;
        for (std::int64_t i = 0; i < array->count(); ++i) {
            state = state * 1664525U + 1013904223U;
            array->mutable_as<float>()[i] =
                static_cast<float>(state >> 8) / static_cast<float>(1U << 23) - 1.0F;
        }
    }
    return request;
}

std::vector<float> values_of(const Tensor& tensor) {
    return {tensor.as<float>(), tensor.as<float>() + tensor.count()};
}

TEST(SparseAttention, ADenseCallHasNoCentroids) {
    Request request;
    request.pattern.sparsity = 0.0;
    request.pattern.centroids = true;
    const Tensor ones = Tensor::of(std::vector<float>{1.0F, 1.0F}, {2});
    const AttentionScales scales = {ones, ones, ones, {}, {}, {}};
    AttentionOptions options;
    options.format = AttentionFormat::int8;
    options.scales = &scales;
    const SparsePlan plan = request.plan();
    EXPECT_NE(plan.dense_because, "");
    EXPECT_NO_THROW(attention({request.q, request.k, request.v, request.o}, plan, options));
}

TEST(SparsePlan, ServesLaterCallsOfTheSameSizes) {
    for (const char* type : {"rf_v1", "rf_v2", "rf_v3"}) {
        Request request = request_with_content();
        request.pattern.type = type;
        const SparsePlan plan = request.run();
        ASSERT_LT(plan.density(), 1.0);
        const std::vector<float> first = values_of(request.o);
        attention({request.q, request.k, request.v, request.o}, plan);
        EXPECT_EQ(values_of(request.o), first);
        request.k.mutable_as<float>()[0] =
            std::numeric_limits<float>::quiet_NaN();  // nothing is predicted from it
        EXPECT_NO_THROW(attention({request.q, request.k, request.v, request.o}, plan));
    }
}

TEST(SparsePlan, FromAGivenMaskIsThatOfThePrediction) {
    for (const char* type : {"rf_v2", "rf_v3"}) {
        Request request = request_with_content();
        request.pattern.type = type;
        request.options.keep_cells = true;
        const SparsePlan predicted = request.plan();
        ASSERT_TRUE(predicted.cells.defined());
        request.options.mask = predicted.cells;
        request.k.mutable_as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
        const SparsePlan given = request.plan();
        EXPECT_FALSE(given.predicted);
        EXPECT_EQ(given.mask.columns, predicted.mask.columns);
        EXPECT_EQ(given.mask.row_start, predicted.mask.row_start);
        EXPECT_EQ(given.density(), predicted.density());
    }
}

TEST(SparsePlan, FromGivenHeadTypesIsThatOfRecognition) {
    Request request = request_with_content();
    request.pattern.type = "rf_v1";
    const SparsePlan recognised = request.plan();
    for (const SparseHead& head : recognised.heads) {
        request.options.head_types.emplace_back(head.type);
        ASSERT_EQ(head.recalls.size(), 3U);
    }
    const SparsePlan given = request.plan();
    EXPECT_FALSE(given.predicted);
    EXPECT_EQ(given.mask.columns, recognised.mask.columns);
    ASSERT_EQ(given.orders.size(), recognised.orders.size());
    request.options.head_types.assign(2, "dense");
    EXPECT_EQ(request.plan().dense_because, "every head is given as dense");
    request.options.head_types.assign(2, "block_mean");
    EXPECT_THAT(message_of([&](Request& r) { r = request; }),
                HasSubstr("head_types must be dense, spatial, temporal or textural, got block_mean"));
}

TEST(SparsePlan, DoesNotFitOtherSizes) {
    const SparsePlan plan = request_with_content().plan();
    const auto message = [&](const Tensor& q, const Tensor& k, bool causal) -> std::string {
        Tensor o = Tensor::zeros(DType::f32, q.shape());
        try {
            attention({q, k, k, o}, plan, {.causal = causal});
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "no error";
    };
    const auto zeros = [](std::int64_t tokens, std::int64_t heads) {
        return Tensor::zeros(DType::f32, {1, tokens, heads, 8});
    };
    EXPECT_EQ(message(zeros(533, 2), zeros(533, 2), false), "no error");
    EXPECT_THAT(message(zeros(533, 4), zeros(533, 2), false),
                HasSubstr("the plan is of 2 heads, got q f32[1,533,4,8]"));
    EXPECT_THAT(message(zeros(533, 2), zeros(532, 2), false),
                HasSubstr("the plan is of 533 queries and 533 keys"));
    EXPECT_THAT(message(zeros(533, 2), zeros(533, 2), true), HasSubstr("is_causal goes with plans"));
}

TEST(SparseOptions, AreThoseOfTheFormat) {
    for (const auto& [name, format, smooths] : {std::tuple("none", AttentionFormat::none, true),
                                                {"bf16", AttentionFormat::none, true},
                                                {"int8", AttentionFormat::int8, true},
                                                {"fp8", AttentionFormat::fp8, false},
                                                {"mix", AttentionFormat::mix, false},
                                                {"int8_qk", AttentionFormat::int8_qk, true},
                                                {"mxfp4", AttentionFormat::mxfp4, false}}) {
        ASSERT_EQ(sparse_format_from(name), format);
        EXPECT_EQ(sparse_options(format).format, format);
        EXPECT_EQ(sparse_options(format).smooth_k, smooths) << name;
    }
    EXPECT_THROW(sparse_format_from("mxfp8"), InvalidArgument);
}

TEST(SparseOptions, AreRefusedWhereTheyDoNotFit) {
    const BlockMask mask;
    const Tensor rotation = hadamard_matrix(8);
    Request request = request_with_content();
    const auto message = [&](const AttentionOptions& options) -> std::string {
        try {
            attention({request.q, request.k, request.v, request.o}, request.plan(), options);
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "no error";
    };
    EXPECT_THAT(message({.mask = &mask}), HasSubstr("the options must have no mask: the plan has one"));
    EXPECT_THAT(message({.causal = true, .format = AttentionFormat::int8}),
                HasSubstr("is_causal goes with precision none"));
    EXPECT_THAT(message({.q_rotation = rotation}),
                HasSubstr("q_rotation and k_rotation go with precision fp8"));
    // As the quantized attention of a model asks for it, whatever the type of the plan.
    EXPECT_EQ(message({.format = AttentionFormat::mxfp4, .q_rotation = rotation, .k_rotation = rotation}),
              "no error");
    EXPECT_EQ(message({.format = AttentionFormat::fp8}), "no error");
    request.options.attention = {.format = AttentionFormat::fp8};
    EXPECT_THAT(message_of([&](Request& r) { r = request; }),
                HasSubstr("precision fp8, mix and mxfp4 go with rf_v3"));
    request.options.attention = {.format = AttentionFormat::int8, .q_rotation = rotation};
    EXPECT_THAT(message_of([&](Request& r) { r = request; }), HasSubstr("go with precision fp8"));
}

TEST(SparsePlan, OrdersThatDoNotFitAreRefused) {
    const SparsePlan plan = request_with_content().plan();
    const auto message = [&](const std::function<void(SparsePlan&)>& spoil) -> std::string {
        Request request = request_with_content();
        SparsePlan spoiled = plan;
        spoil(spoiled);
        try {
            attention({request.q, request.k, request.v, request.o}, spoiled);
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "no error";
    };
    EXPECT_EQ(message([](SparsePlan&) {}), "no error");
    EXPECT_EQ(message([](SparsePlan& p) { p.orders[0].q.pop_back(); }),
              "[sparse_attention] the plan orders 532 tokens of q, which has 533");
    EXPECT_EQ(message([](SparsePlan& p) { p.orders[0].k.push_back(0); }),
              "[sparse_attention] the plan orders 534 tokens of k, which has 533");
    EXPECT_EQ(message([](SparsePlan& p) { p.orders[0].k[7] = 533; }),
              "[sparse_attention] the plan's order names token 533 of k, which has 533");
    EXPECT_EQ(message([](SparsePlan& p) { p.orders[0].q[7] = -1; }),
              "[sparse_attention] the plan's order names token -1 of q, which has 533");
    EXPECT_EQ(message([](SparsePlan& p) { p.order_of[1] = 1; }),
              "[sparse_attention] the plan has 1 orders, a head has number 1");
    EXPECT_EQ(message([](SparsePlan& p) { p.order_of.pop_back(); }),
              "[sparse_attention] the plan must have an order per head, got 1 of 2");
    EXPECT_EQ(message([](SparsePlan& p) {
                  p.dense_because = "the test says so";
                  p.orders[0].q.pop_back();
              }),
              "[sparse_attention] the plan orders 532 tokens of q, which has 533");
}

TEST(SparseTypes, NamesAndWhatTheyLookAt) {
    EXPECT_EQ(sparse_types(), (std::vector<std::string_view>{"none", "rf_v1", "rf_v2", "rf_v3", "ada_bsa"}));
    EXPECT_THAT(message_of([](Request& r) { r.pattern.type = "rf_v9"; }),
                "[sparse_attention] sparse type must be one of none, rf_v1, rf_v2, rf_v3, ada_bsa, got "
                "\"rf_v9\"");
    std::set<std::string_view> looked_at, parameters;
    for (const SparseParameter& parameter : sparse_parameters()) parameters.insert(parameter.name);
    for (const SparseTypeRow& row : sparse_type_rows()) {
        for (const std::string_view name : row.reads) {
            if (!name.empty()) looked_at.insert(name);
        }
    }
    EXPECT_EQ(looked_at, parameters);
}

TEST(Recognition, TheSampleIsSpreadAndInRange) {
    for (const std::int64_t range : {1, 7, 100, 4096, 1000003, 2147483647}) {
        for (const std::int64_t count : {1, 5, 64, 4096}) {
            const auto sample = spread_sample(range, count);
            const auto size = static_cast<std::int64_t>(sample.size());
            ASSERT_EQ(size, std::min(range, count));
            for (std::int64_t i = 0; i < size; ++i) {
                EXPECT_GE(sample[static_cast<std::size_t>(i)], i * range / size);
                EXPECT_LE(sample[static_cast<std::size_t>(i)], (i + 1) * range / size);
                EXPECT_LT(sample[static_cast<std::size_t>(i)], range);
            }
        }
    }
}

}  // namespace
}  // namespace aerogel
