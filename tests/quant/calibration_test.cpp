// Means of ranges over forwards and over later steps; files of statistics; which input rows are kept.
#include "quant/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

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

// --- reservoirs

// Rows [first, first + count) of three columns holding their number, in pieces of 256 that bf16 can tell
// apart.
Tensor numbered(std::int64_t first, std::int64_t count) {
    Tensor x(DType::f32, {count, 3});
    for (std::int64_t row = 0; row < count; ++row) {
        const std::int64_t number = first + row;
        x.mutable_as<float>()[row * 3] = static_cast<float>(number % 256);
        x.mutable_as<float>()[row * 3 + 1] = static_cast<float>(number / 256);
        x.mutable_as<float>()[row * 3 + 2] = -1.0F;
    }
    return x;
}

std::vector<std::int64_t> numbers(const LayerInputs& inputs) {
    std::vector<std::int64_t> result;
    for (std::int64_t row = 0; row < inputs.rows.dim(0); ++row) {
        const auto* values = inputs.rows.as<BFloat16>() + row * 3;
        EXPECT_EQ(to_float(values[2]), -1.0F);
        result.push_back(static_cast<std::int64_t>(to_float(values[0]) + 256 * to_float(values[1])));
    }
    return result;
}

// 100 rows per step, given in uneven pieces.
InputSamples sampled(std::int64_t rows, int steps, const std::string& layer = "fc") {
    InputSamples samples(rows);
    for (int step = 0; step < steps; ++step) {
        samples.observe(layer, step, numbered(step * 100, 37));
        samples.observe(layer, step, numbered(step * 100 + 37, 63));
    }
    return samples;
}

TEST(InputSamples, FewRowsAreAllKept) {
    const LayerInputs inputs = sampled(1000, 3).of("fc");
    EXPECT_EQ(inputs.rows.shape(), (Shape{300, 3}));
    const auto kept = numbers(inputs);
    for (std::int64_t i = 0; i < 300; ++i) EXPECT_EQ(kept[static_cast<std::size_t>(i)], i);
}

TEST(InputSamples, ManyRowsGiveAnEvenSampleWithTheirSteps) {
    const LayerInputs inputs = sampled(500, 200).of("fc");
    const auto kept = numbers(inputs);
    EXPECT_EQ(kept.size(), 500U);
    EXPECT_EQ(std::set(kept.begin(), kept.end()).size(), 500U);
    std::vector<int> per_quarter(4);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        EXPECT_EQ(inputs.steps[i], kept[i] / 100);
        ++per_quarter[static_cast<std::size_t>(kept[i] / 5000)];
    }
    // Each quarter holds 125 in the mean with a deviation below 10: five of them.
    for (const int count : per_quarter) EXPECT_NEAR(count, 125, 50);
    double mean = 0.0;
    for (const std::int64_t number : kept) mean += static_cast<double>(number) / 500.0;
    EXPECT_NEAR(mean, 10000.0, 5.0 * 20000.0 / std::sqrt(12.0 * 500.0));
}

TEST(InputSamples, TheSameRowsEveryTime) {
    EXPECT_EQ(numbers(sampled(50, 100).of("fc")), numbers(sampled(50, 100).of("fc")));
}

TEST(InputSamples, BatchesStridesAndBf16) {
    InputSamples samples(100);
    const Tensor x = numbered(0, 12);
    samples.observe("a", 0, x.reshaped({2, 6, 3}));
    samples.observe("b", 0, x.to(DType::bf16));
    samples.observe("c", 0, TensorView{DType::f32, {6, 3}, x.data(), {6, 1}});
    EXPECT_EQ(numbers(samples.of("a")), numbers(samples.of("b")));
    EXPECT_EQ(numbers(samples.of("c")), (std::vector<std::int64_t>{0, 2, 4, 6, 8, 10}));
    EXPECT_THROW(samples.of("d"), InvalidArgument);
    InputSamples none(0);
    none.observe("a", 0, x);
    EXPECT_FALSE(none.contains("a"));
}

TEST(InputSamples, MergedRowsStandBehindEachOther) {
    InputSamples all = sampled(20, 5);
    const auto first = numbers(all.of("fc"));
    const InputSamples more = sampled(7, 3), other = sampled(4, 1, "other");
    all.merge(more);
    all.merge(other);
    auto wanted = first;
    for (const std::int64_t number : numbers(more.of("fc"))) wanted.push_back(number);
    EXPECT_EQ(numbers(all.of("fc")), wanted);
    EXPECT_EQ(all.of("fc").steps.size(), 27U);
    EXPECT_EQ(numbers(all.of("other")), numbers(other.of("other")));
    InputSamples wide(3);
    wide.observe("fc", 0, Tensor::zeros(DType::f32, {2, 9}));
    EXPECT_THROW(all.merge(wide), InvalidArgument);
}

TEST(InputSamples, FilesBringThemBack) {
    const InputSamples samples = sampled(20, 5);
    std::map<std::string, Tensor> tensors;
    samples.add_to(tensors);
    InputSamples back;
    back.restore("fc", tensors.at("fc.inputs"), tensors.at("fc.input_steps"), 100);
    EXPECT_EQ(numbers(back.of("fc")), numbers(samples.of("fc")));
    EXPECT_EQ(back.of("fc").steps, samples.of("fc").steps);
    EXPECT_THROW(back.restore("fc", tensors.at("fc.inputs"), Tensor(DType::i32, {19}), 100), InvalidArgument);
    EXPECT_THROW(back.restore("fc", Tensor(DType::f32, {20, 3}), tensors.at("fc.input_steps"), 100),
                 InvalidArgument);
}

}  // namespace
}  // namespace aerogel
