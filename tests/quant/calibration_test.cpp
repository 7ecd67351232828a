// Means of ranges over forwards and over later steps; files of statistics.
#include "quant/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/safetensors.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

Tensor values(const std::vector<float>& list) {
    Tensor x(DType::f32, {1, static_cast<std::int64_t>(list.size())});
    std::copy(list.begin(), list.end(), x.mutable_as<float>());
    return x;
}

CalibrationStats three_steps() {
    CalibrationStats stats(3);
    stats.observe("fc", 0, values({-1, 0, 8}));
    stats.observe("fc", 0, values({-3, 2}));
    stats.observe("fc", 1, values({-10, 4}));
    stats.observe("fc", 2, values({1, 5}));
    stats.observe("early", 0, values({-4, 6}));
    return stats;
}

TEST(Calibration, MeanOverForwardsNotExtremes) {
    const InputRange range = three_steps().range("fc");
    EXPECT_EQ(range.min, (-1.0F - 3.0F - 10.0F + 1.0F) / 4.0F);
    EXPECT_EQ(range.max, (8.0F + 2.0F + 4.0F + 5.0F) / 4.0F);
}

TEST(Calibration, StepsTakeAllLaterForwards) {
    const auto ranges = three_steps().ranges_by_step("fc");
    ASSERT_EQ(ranges.size(), 3U);
    EXPECT_EQ(ranges[2].min, 1.0F);
    EXPECT_EQ(ranges[2].max, 5.0F);
    EXPECT_EQ(ranges[1].min, -4.5F);
    EXPECT_EQ(ranges[1].max, 4.5F);
    EXPECT_EQ(ranges[0].min, -3.25F);
    EXPECT_EQ(ranges[0].max, 4.75F);
}

TEST(Calibration, StepsWithoutForwardsTakeTheLastMean) {
    for (const InputRange& range : three_steps().ranges_by_step("early")) {
        EXPECT_EQ(range.min, -4.0F);
        EXPECT_EQ(range.max, 6.0F);
    }
}

TEST(Calibration, StridedAndBfloat16Rows) {
    Tensor wide(DType::f32, {3, 4});
    for (int i = 0; i < 12; ++i) wide.mutable_as<float>()[i] = static_cast<float>(i);
    wide.mutable_as<float>()[3] = std::numeric_limits<float>::quiet_NaN();  // in the gap
    CalibrationStats stats(1);
    stats.observe("strided", 0, {DType::f32, {3, 2}, wide.data(), {4, 1}, Device::cpu});
    EXPECT_EQ(stats.range("strided").max, 9.0F);
    stats.observe("half", 0, values({-1.5F, 2.25F}).to(DType::bf16));
    EXPECT_EQ(stats.range("half").min, -1.5F);
    EXPECT_EQ(stats.range("half").max, 2.25F);
}

TEST(Calibration, Refusals) {
    CalibrationStats stats = three_steps();
    EXPECT_THROW(CalibrationStats(0), InvalidArgument);
    EXPECT_THROW(stats.observe("fc", 3, values({1})), InvalidArgument);
    EXPECT_THROW(stats.observe("fc", -1, values({1})), InvalidArgument);
    EXPECT_THROW(stats.observe("fc", 0, Tensor(DType::f32, {0, 4})), InvalidArgument);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        EXPECT_THROW(stats.observe("fc", 0, values({1, bad, 2})), InvalidArgument);
        EXPECT_THROW(stats.observe("fc", 0, values({1, -bad})), InvalidArgument);
    }
    EXPECT_THROW(stats.range("fd"), InvalidArgument);
    EXPECT_EQ(stats.range("fc").max, 4.75F);  // refused forwards leave no trace
}

TEST(Calibration, MergesRuns) {
    CalibrationStats all(2), one(2), other(2);
    for (CalibrationStats* stats : {&all, &one}) {
        stats->observe("fc", 0, values({-1, 3}));
        stats->observe("mine", 1, values({5}));
    }
    for (CalibrationStats* stats : {&all, &other}) {
        stats->observe("fc", 0, values({-8, 1}));
        stats->observe("fc", 1, values({-2, 4}));
        stats->observe("yours", 0, values({6}));
    }
    CalibrationStats merged;  // without steps until the first merge
    merged.merge(one);
    merged.merge(other);
    EXPECT_EQ(merged.layer_names(), all.layer_names());
    for (const std::string& layer : all.layer_names()) {
        for (int step = 0; step < 2; ++step)
            EXPECT_EQ(merged.forwards(layer, step), all.forwards(layer, step));
        const auto wanted = all.ranges_by_step(layer), got = merged.ranges_by_step(layer);
        for (std::size_t i = 0; i < 2; ++i) {
            EXPECT_EQ(got[i].min, wanted[i].min);
            EXPECT_EQ(got[i].max, wanted[i].max);
        }
    }
    EXPECT_THROW(merged.merge(CalibrationStats(3)), InvalidArgument);
}

class CalibrationFile : public TemporaryFolder {};

TEST_F(CalibrationFile, SavedAndLoaded) {
    const auto path = at("stats.safetensors");
    three_steps().save(path);
    const CalibrationStats loaded = CalibrationStats::load(path);
    EXPECT_EQ(loaded.steps(), 3);
    EXPECT_THAT(loaded.layer_names(), testing::ElementsAre("early", "fc"));
    for (const char* layer : {"early", "fc"}) {
        const auto wanted = three_steps().ranges_by_step(layer), got = loaded.ranges_by_step(layer);
        for (std::size_t i = 0; i < 3; ++i) {
            EXPECT_EQ(got[i].min, wanted[i].min);
            EXPECT_EQ(got[i].max, wanted[i].max);
        }
    }
    const Tensor forwards = Tensor::zeros(DType::i64, {2}), sums = Tensor::zeros(DType::f64, {2});
    save_safetensors(path, {{"a.forwards", forwards}, {"a.min_sum", sums}, {"a.max_sum", sums}});
    EXPECT_THROW(CalibrationStats::load(path), InvalidArgument);  // never ran
    save_safetensors(path, {{"a", sums}});
    EXPECT_THROW(CalibrationStats::load(path), InvalidArgument);
}

}  // namespace
}  // namespace aerogel
