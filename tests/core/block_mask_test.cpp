// Block masks: the way from and to dense bytes, density by tokens, and every inconsistency refused.
#include "aerogel/block_mask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

BlockMask geometry(std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len) {
    BlockMask mask;
    mask.batch = batch;
    mask.heads = heads;
    mask.q_len = q_len;
    mask.k_len = k_len;
    mask.block_q = 4;
    mask.block_k = 8;
    return mask;
}

TEST(BlockMask, DenseThereAndBack) {
    const BlockMask shape = geometry(1, 2, 5, 17);  // 2 x 3 blocks, both last ones short
    EXPECT_EQ(shape.q_blocks(), 2);
    EXPECT_EQ(shape.k_blocks(), 3);
    const std::vector<std::uint8_t> dense = {1, 0, 255, 0, 0, 0, 0, 1, 0, 1, 1, 1};
    const BlockMask mask = BlockMask::from_dense(dense.data(), shape);
    mask.check();
    EXPECT_THAT(mask.row_start, ElementsAre(0, 2, 2, 3, 6));
    EXPECT_THAT(mask.columns, ElementsAre(0, 2, 1, 0, 1, 2));
    EXPECT_THAT(mask.to_dense(), ElementsAre(1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1));
}

// The definition, score by score.
double counted_density(const std::vector<std::uint8_t>& dense, const BlockMask& m, std::int64_t map) {
    std::int64_t kept = 0;
    for (std::int64_t q = 0; q < m.q_len; ++q) {
        for (std::int64_t k = 0; k < m.k_len; ++k) {
            const std::int64_t row = map * m.q_blocks() + q / m.block_q;
            kept += dense[static_cast<std::size_t>(row * m.k_blocks() + k / m.block_k)] != 0 ? 1 : 0;
        }
    }
    return static_cast<double>(kept) / static_cast<double>(m.q_len * m.k_len);
}

TEST(BlockMask, DensityCountsTokens) {
    unsigned state = 1;
    for (const std::int64_t q_len : {1, 4, 5, 16}) {
        for (const std::int64_t k_len : {1, 8, 9, 31}) {
            const BlockMask shape = geometry(2, 3, q_len, k_len);
            std::vector<std::uint8_t> dense(
                static_cast<std::size_t>(6 * shape.q_blocks() * shape.k_blocks()));
            for (auto& byte : dense) byte = ((state = state * 1664525U + 1013904223U) >> 30) == 0 ? 0 : 1;
            const BlockMask mask = BlockMask::from_dense(dense.data(), shape);
            double sum = 0;
            for (std::int64_t map = 0; map < 6; ++map) {
                EXPECT_DOUBLE_EQ(mask.density(map), counted_density(dense, mask, map))
                    << q_len << " " << k_len;
                sum += mask.density(map);
            }
            EXPECT_DOUBLE_EQ(mask.density(), sum / 6);
            EXPECT_EQ(mask.to_dense(), dense);
        }
    }
    const std::vector<std::uint8_t> ones(4, 1);
    EXPECT_EQ(BlockMask::from_dense(ones.data(), geometry(1, 1, 5, 9)).density(), 1.0);
    const std::vector<std::uint8_t> zeros(4, 0);
    EXPECT_EQ(BlockMask::from_dense(zeros.data(), geometry(1, 1, 5, 9)).density(), 0.0);
    EXPECT_THAT(error_of([&] { BlockMask::from_dense(ones.data(), geometry(1, 1, 5, 9)).density(1); }),
                HasSubstr("map must be in [0,1), got 1"));
}

TEST(BlockMask, EveryInconsistencyIsNamed) {
    const std::vector<std::uint8_t> ones(6, 1);
    const BlockMask good = BlockMask::from_dense(ones.data(), geometry(1, 1, 5, 17));
    const auto broken = [&](const std::function<void(BlockMask&)>& change) {
        BlockMask mask = good;
        change(mask);
        const std::string message = error_of([&] { mask.check(); });
        EXPECT_THAT(message, ::testing::StartsWith("[block_mask] "));
        EXPECT_EQ(error_of([&] { static_cast<void>(mask.to_dense()); }), message);
        EXPECT_EQ(error_of([&] { static_cast<void>(mask.density()); }), message);
        EXPECT_EQ(error_of([&] { static_cast<void>(mask.density(0)); }), message);
        return message;
    };
    EXPECT_THAT(broken([](BlockMask& m) { m.heads = 0; }), HasSubstr("heads must be >= 1, got 0"));
    EXPECT_THAT(broken([](BlockMask& m) { m.block_q = 0; }), HasSubstr("block_q must be >= 1"));
    EXPECT_THAT(broken([](BlockMask& m) { m.k_len = -1; }), HasSubstr("k_len must be >= 1"));
    EXPECT_THAT(broken([](BlockMask& m) { m.q_len = std::int64_t{1} << 40; }), HasSubstr("below 2^31"));
    EXPECT_THAT(broken([](BlockMask& m) { m.batch = m.heads = std::int64_t{1} << 40; }),
                HasSubstr("overflows"));
    EXPECT_THAT(broken([](BlockMask& m) { m.row_start.pop_back(); }),
                HasSubstr("must have 3 elements, got 2"));
    EXPECT_THAT(broken([](BlockMask& m) { m.row_start.clear(); }), HasSubstr("got 0"));
    EXPECT_THAT(broken([](BlockMask& m) { m.row_start.front() = 1; }), HasSubstr("from 0 to 6, got 1 to 6"));
    EXPECT_THAT(broken([](BlockMask& m) { m.columns.pop_back(); }), HasSubstr("from 0 to 5, got 0 to 6"));
    EXPECT_THAT(broken([](BlockMask& m) { m.row_start[1] = 7; }), HasSubstr("within the 6 columns, got 7"));
    EXPECT_THAT(broken([](BlockMask& m) { m.row_start[1] = -1; }), HasSubstr("must not descend"));
    EXPECT_THAT(broken([](BlockMask& m) { m.columns[2] = 3; }),
                HasSubstr("row 0: columns must be in [0,3), got 3"));
    EXPECT_THAT(broken([](BlockMask& m) { m.columns[3] = -1; }),
                HasSubstr("row 1: columns must be in [0,3), got -1"));
    EXPECT_THAT(broken([](BlockMask& m) { m.columns[1] = 0; }), HasSubstr("must ascend, got 0 then 0"));
    EXPECT_THAT(broken([](BlockMask& m) { m = {}; }), HasSubstr("batch must be >= 1, got 0"));
    EXPECT_THAT(error_of([&] { BlockMask::from_dense(nullptr, good); }), HasSubstr("there is no dense mask"));
}

TEST(BlockMask, OfNothingHasNoBlocks) {
    EXPECT_EQ(BlockMask{}.q_blocks(), 0);
    EXPECT_EQ(BlockMask{}.k_blocks(), 0);
}

}  // namespace
}  // namespace aerogel
