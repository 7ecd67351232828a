// Wrong arguments of sparse_attention and what its messages say; the sample ARM looks at; names.
#include "aerogel/sparse_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "aerogel/error.h"
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
    SparseOptions options;

    Request() {
        options.type = SparseType::rf_v2;
        options.sparsity = 0.8;
        options.latent_shape = {33, 4, 4};
        options.txt_len = 5;
        options.block_size = 16;
    }
    SparseReport run() const { return sparse_attention(q_view, k, v, o, options); }
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
    const SparseReport report = Request().run();
    EXPECT_EQ(report.dense_because, "");
    ASSERT_EQ(report.heads.size(), 2U);
    EXPECT_EQ(report.heads[0].type, HeadType::block_mean);
    EXPECT_GT(report.attention_seconds, 0.0);
    EXPECT_GT(report.predict_seconds, 0.0);
    // All means are equal, so all blocks tie and stay.
    EXPECT_EQ(report.density(), 1.0);
}

TEST(SparseAttention, WrongOptionsAreRefused) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const struct {
        std::function<void(Request&)> spoil;
        std::string says;
    } cases[] = {
        {[](Request& r) { r.options.sparsity = 1.0; },
         "sparsity must be at least 0 and less than 1, got 1.0"},
        {[](Request& r) { r.options.sparsity = -0.1; }, "sparsity must be at least 0"},
        {[&](Request& r) { r.options.sparsity = nan; }, "sparsity must be at least 0"},
        {[](Request& r) { r.options.block_size = 15; }, "block_size must be 16 to 128, got 15"},
        {[](Request& r) { r.options.block_size = 129; }, "block_size must be 16 to 128, got 129"},
        {[](Request& r) { r.options.min_recall = 1.5; }, "min_recall must be 0 to 1, got 1.5"},
        {[&](Request& r) { r.options.min_recall = nan; }, "min_recall must be 0 to 1"},
        {[](Request& r) { r.options.txt_len = -1; }, "txt_len must not be negative, got -1"},
        {[](Request& r) { r.options.txt_len = 6; }, "6 + [33,4,4], got 533 (q f32[1,533,2,8])"},
        {[](Request& r) { r.options.txt_len = 600; }, "600 + [33,4,4], got 533"},
        {[](Request& r) {
             r.options.latent_shape = {0, 4, 4};
         },
         "latent_shape must be positive, got [0,4,4]"},
        {[](Request& r) {
             r.options.latent_shape = {33, -4, -4};
         },
         "latent_shape must be positive"},
        {[](Request& r) {
             r.options.latent_shape = {1L << 40, 1L << 40, 4};
         },
         "got 533 (q f32[1,533,2,8])"},
        {[](Request& r) { r.options.layout = AttentionLayout::bnsd; }, "got 2 (q f32[1,533,2,8])"},
        {[](Request& r) { r.options.scale = std::numeric_limits<float>::infinity(); },
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
        {[](Request& r) { r.q_view.device = Device::cuda; }, "q must be on the CPU"},
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

TEST(SparseAttention, ReportsTimesOfADenseCall) {
    Request request;
    request.options.type = SparseType::none;
    request.options.latent_shape = {};
    const SparseReport report = request.run();
    EXPECT_EQ(report.dense_because, "sparse type none");
    EXPECT_EQ(report.predict_seconds, 0.0);
    EXPECT_EQ(report.density(), 1.0);
}

TEST(SparseAttention, NamesGoThereAndBack) {
    for (const SparseType type :
         {SparseType::none, SparseType::rf_v1, SparseType::rf_v2, SparseType::rf_v3, SparseType::ada_bsa})
        EXPECT_EQ(sparse_type_from(to_string(type)), type);
    try {
        sparse_type_from("rf_v9");
        ADD_FAILURE() << "no error";
    } catch (const InvalidArgument& error) {
        EXPECT_STREQ(error.what(),
                     "[sparse_attention] sparse type must be one of none, rf_v1, rf_v2, rf_v3, ada_bsa, got "
                     "\"rf_v9\"");
    }
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
