// What a cache of steps keeps, by hand: one number per row.
#include "aerogel/step_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "aerogel/error.h"

namespace aerogel {
namespace {

struct Pass {
    float first = 0.0F, others = 0.0F;  // what the blocks add to 2
    std::int64_t rows = 6;
};

// Hidden behind all blocks: its first value. Rows 0 and 1 of each three do not decide: they change by more.
float run(StepCache& cache, const Pass& pass) {
    const std::vector<float> start(static_cast<std::size_t>(2 * pass.rows), 2.0F);
    Tensor hidden = Tensor::of(start, {pass.rows, 2});
    cache.before_blocks(hidden, {});
    std::vector<float> first = start;
    for (std::size_t i = 0; i < first.size(); ++i)
        first[i] += i / 2 % 3 == 2 ? pass.first : pass.first * pass.first;
    hidden = Tensor::of(first, {pass.rows, 2});
    if (!cache.after_first_block(hidden, {pass.rows / 3, 3, 2, 1}, {})) {
        std::vector<float> all = hidden.values();
        for (float& x : all) x += pass.others;
        hidden = Tensor::of(all, {pass.rows, 2});
        cache.after_blocks(hidden, {});
    }
    return hidden.values()[4];
}

TEST(StepCache, AddsWhatTheBlocksAddedBefore) {
    StepCache cache({StepCacheKind::first_block, 0.125});
    EXPECT_EQ(run(cache, {1.0F, 10.0F}), 13.0F);
    EXPECT_FALSE(cache.skipped());
    EXPECT_FALSE(cache.change());
    EXPECT_EQ(run(cache, {1.25F, 12.0F}), 15.25F);
    EXPECT_FALSE(cache.skipped());
    EXPECT_EQ(*cache.change(), 0.25);
    EXPECT_EQ(run(cache, {1.375F, 99.0F}), 15.375F);  // a change of 0.1
    EXPECT_TRUE(cache.skipped());
    EXPECT_EQ(run(cache, {1.375F, 99.0F}), 15.375F);  // still of the last full pass
    EXPECT_TRUE(cache.skipped());
    EXPECT_EQ(run(cache, {1.5F, 20.0F}), 23.5F);
    EXPECT_FALSE(cache.skipped());
}

TEST(StepCache, GoesOnAlongALine) {
    StepCache cache({StepCacheKind::taylor, 0.125});
    EXPECT_EQ(run(cache, {1.0F, 10.0F}), 13.0F);
    EXPECT_EQ(run(cache, {1.125F, 99.0F}), 13.125F);  // no line through one pass
    EXPECT_EQ(run(cache, {1.25F, 14.0F}), 17.25F);    // 4 in two passes
    EXPECT_EQ(run(cache, {1.25F, 99.0F}), 2.0F + 1.25F + 14.0F + 2.0F);
    EXPECT_EQ(run(cache, {1.25F, 99.0F}), 2.0F + 1.25F + 14.0F + 4.0F);
    EXPECT_TRUE(cache.skipped());
}

TEST(StepCache, BeginsAnewWithOtherSizes) {
    StepCache cache({StepCacheKind::taylor, 0.125});
    run(cache, {1.0F, 10.0F});
    EXPECT_EQ(run(cache, {1.0F, 12.0F, 9}), 15.0F);
    EXPECT_FALSE(cache.skipped());
    EXPECT_EQ(run(cache, {1.0F, 99.0F, 9}), 15.0F);
    EXPECT_TRUE(cache.skipped());
}

TEST(StepCache, SaysWhatIsWrong) {
    EXPECT_THROW(StepCache({StepCacheKind::taylor, -1.0}), InvalidArgument);
    EXPECT_THROW(StepCache({StepCacheKind::taylor, std::nan("")}), InvalidArgument);
    EXPECT_THROW(step_cache_kind_from("other"), InvalidArgument);
    for (const char* kind : {"none", "first-block", "taylor"})
        EXPECT_EQ(to_string(step_cache_kind_from(kind)), kind);
}

}  // namespace
}  // namespace aerogel
