// Properties every token order must have, whatever the video: a permutation with an exact inverse, the
// protected first frame in front, the text behind; and the windows where they belong.
#include "sparse/token_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

// One video behind txt_len text tokens.
SparseGeometry geometry_of(const LatentShape& latent, std::int64_t txt_len, std::int64_t block,
                           double sparsity, bool protect) {
    return {{{txt_len, latent}}, txt_len + latent.tokens(), block, sparsity, protect};
}

std::int64_t text_of(const SparseGeometry& geometry) {
    return geometry.tokens - geometry.video();
}

std::vector<SparseGeometry> geometries() {
    std::vector<SparseGeometry> result;
    for (const LatentShape latent : {LatentShape{1, 8, 8},
                                     {3, 8, 16},
                                     {2, 9, 8},
                                     {4, 8, 13},
                                     {5, 11, 10},
                                     {7, 3, 5},
                                     {2, 1, 30},
                                     {3, 17, 1},
                                     {1, 1, 1}}) {
        for (const std::int64_t txt_len : {0, 1, 77}) {
            for (const bool protect : {true, false})
                result.push_back(geometry_of(latent, txt_len, 16, 0.8, protect));
        }
    }
    return result;
}

std::string describe(const SparseGeometry& geometry) {
    return to_string(Shape{geometry.latent().frames, geometry.latent().height, geometry.latent().width}) +
           " text " + std::to_string(text_of(geometry)) + (geometry.protect_first_frame ? " protected" : "");
}

// Every pattern of a type, once.
std::vector<const HeadPattern*> patterns() {
    std::vector<const HeadPattern*> found;
    for (const SparseTypeRow& row : sparse_type_rows()) {
        for (const HeadPattern* pattern : row.head_patterns()) {
            if (std::find(found.begin(), found.end(), pattern) == found.end()) found.push_back(pattern);
        }
    }
    return found;
}

void expect_permutation(const SparseGeometry& geometry, const TokenOrder& order) {
    const auto tokens = static_cast<std::size_t>(geometry.tokens);
    ASSERT_EQ(order.size(), tokens);
    const TokenOrder inverse = inverse_order(order);
    ASSERT_EQ(inverse.size(), tokens);
    for (std::size_t i = 0; i < tokens; ++i) {
        ASSERT_GE(order[i], 0);
        ASSERT_LT(order[i], geometry.tokens);
        ASSERT_EQ(inverse[static_cast<std::size_t>(order[i])], static_cast<std::int32_t>(i));
        ASSERT_EQ(order[static_cast<std::size_t>(inverse[i])], static_cast<std::int32_t>(i));
    }
    for (std::int64_t text = 0; text < text_of(geometry); ++text)
        EXPECT_EQ(order[static_cast<std::size_t>(geometry.video() + text)], text);
    const auto sink_end = order.begin() + geometry.protected_tokens();
    EXPECT_TRUE(std::all_of(order.begin(), sink_end, [&](std::int32_t token) {
        return token >= text_of(geometry) && token < text_of(geometry) + geometry.protected_tokens();
    }));
}

TEST(TokenOrder, EveryPatternsLayoutIsAPermutationWithItsInverse) {
    for (const SparseGeometry& geometry : geometries()) {
        SCOPED_TRACE(describe(geometry));
        for (const HeadPattern* pattern : patterns()) {
            SCOPED_TRACE(pattern->name);
            if (pattern->q_order == nullptr) continue;
            expect_permutation(geometry, pattern->q_order(geometry));
            expect_permutation(geometry, pattern->k_order(geometry));
        }
    }
}

TEST(TokenOrder, SeveralVideosStandBehindEachOtherAndTheRestBehindThem) {
    const SparseGeometry geometry{{{3, {2, 9, 8}}, {150, {1, 16, 8}}}, 281, 16, 0.8, true};
    for (const auto& order : {raster_order(geometry), windowed_order(geometry)}) {
        ASSERT_EQ(order.size(), 281U);
        const TokenOrder inverse = inverse_order(order);
        for (std::size_t i = 0; i < order.size(); ++i)
            ASSERT_EQ(inverse[static_cast<std::size_t>(order[i])], static_cast<std::int32_t>(i));
        for (std::size_t i = 0; i < 144; ++i) EXPECT_TRUE(order[i] >= 3 && order[i] < 147) << i;
        for (std::size_t i = 144; i < 272; ++i) EXPECT_TRUE(order[i] >= 150 && order[i] < 278) << i;
        const std::vector<std::int32_t> rest(order.begin() + 272, order.end());
        EXPECT_EQ(rest, (std::vector<std::int32_t>{0, 1, 2, 147, 148, 149, 278, 279, 280}));
    }
}

TEST(Cells, AreCutInEachVideoAndKeptWhereProtected) {
    const SparseGeometry geometry{{{3, {2, 9, 8}}, {150, {1, 16, 8}}}, 281, 40, 0.8, true};
    const Cells pooled = pooled_cells(geometry);
    const std::vector<std::int64_t> ends = {40, 80, 120, 144, 184, 224, 264, 272, 281};
    const std::vector<bool> kept = {true, true, false, false, true, true, true, true, true};
    ASSERT_EQ(pooled.size(), ends.size());
    for (std::size_t i = 0; i < ends.size(); ++i) {
        EXPECT_EQ(pooled[i].begin, i == 0 ? 0 : ends[i - 1]);
        EXPECT_EQ(pooled[i].end, ends[i]);
        EXPECT_EQ(pooled[i].always_kept, kept[i]) << i;
    }
    for (const auto& cut : {inside_cells(geometry), natural_cells(geometry)}) {
        ASSERT_EQ(cut.size(), 8U);
        EXPECT_EQ(cut.back().end, 281);
    }
    EXPECT_FALSE(inside_cells(geometry)[2].always_kept);
    EXPECT_TRUE(inside_cells(geometry)[3].always_kept);   // holds the start of the second video
    EXPECT_TRUE(natural_cells(geometry)[0].always_kept);  // holds the tokens before the first video
    EXPECT_FALSE(natural_cells(geometry)[1].always_kept);
}

TEST(TokenOrder, WindowsHoldEightByEightNeighbours) {
    const SparseGeometry geometry = geometry_of({2, 16, 24}, 3, 64, 0.8, true);
    const TokenOrder order = windowed_order(geometry);
    for (std::int64_t window = 0; window < geometry.video() / 64; ++window) {
        const std::int64_t frame = window / 6, top = window % 6 / 3 * 8, left = window % 3 * 8;
        for (std::int64_t i = 0; i < 64; ++i) {
            const std::int64_t token = (frame * 16 + top + i / 8) * 24 + left + i % 8;
            ASSERT_EQ(order[static_cast<std::size_t>(window * 64 + i)], token + 3);
        }
    }
}

TEST(TokenOrder, RemaindersFollowTheWindowsOfTheirFrame) {
    const SparseGeometry geometry = geometry_of({2, 9, 10}, 0, 16, 0.8, true);
    const TokenOrder order = windowed_order(geometry);
    for (std::int32_t i = 0; i < 90; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    // The second frame: one window, the ninth row in whole, columns 8 and 9 of the first eight rows.
    EXPECT_EQ(order[90 + 8], 90 + 10);
    for (std::size_t column = 0; column < 10; ++column)
        EXPECT_EQ(order[90 + 64 + column], 90 + 80 + static_cast<std::int32_t>(column));
    EXPECT_EQ(order[90 + 74], 90 + 8);
    EXPECT_EQ(order[90 + 75], 90 + 9);
    EXPECT_EQ(order[90 + 76], 90 + 18);
    EXPECT_EQ(order[179], 90 + 79);
}

TEST(TokenOrder, TheCheckerboardIsOneAtHalfDensity) {
    for (std::int64_t row = 0; row < 20; ++row) {
        for (std::int64_t column = 0; column < 20; ++column)
            EXPECT_EQ(on_checkerboard(row, column, 0.5), (row + column) % 2 == 0) << row << " " << column;
    }
}

TEST(TokenOrder, TheCheckerboardsDensityFollowsTheSparsity) {
    for (int kept = 1; kept <= 64; ++kept) {
        const double sparsity = 1.0 - kept / 64.0;
        const SparseGeometry geometry = geometry_of({3, 16, 8}, 0, 16, sparsity, false);
        EXPECT_EQ(checkerboard_tokens(geometry), 3 * 2 * kept);
    }
}

// Area of the band against the wanted density; blocks round it up by at most one block to either side.
TEST(Patterns, StaticMasksHaveTheWantedDensity) {
    for (const double sparsity : {0.5, 0.8, 0.95}) {
        const SparseGeometry geometry = geometry_of({16, 32, 32}, 0, 64, sparsity, false);
        for (const HeadPattern* pattern : patterns()) {
            if (pattern->static_blocks == nullptr) continue;
            const BlockGrid grid = pattern->static_blocks(geometry);
            const auto kept = std::count(grid.begin(), grid.end(), 1);
            const double density = static_cast<double>(kept) / static_cast<double>(grid.size());
            const double blocks = static_cast<double>(geometry.blocks());
            EXPECT_GE(density, 1.0 - sparsity - 1e-9) << pattern->name;
            EXPECT_LE(density, 1.0 - sparsity + 2.0 / blocks + 1.0 / 64.0) << pattern->name;
        }
    }
}

TEST(Patterns, ProtectedRowsAndColumnsAreFull) {
    for (const SparseGeometry& geometry : geometries()) {
        SCOPED_TRACE(describe(geometry));
        for (const HeadPattern* pattern : patterns()) {
            if (pattern->static_blocks == nullptr) continue;
            const BlockGrid grid = pattern->static_blocks(geometry);
            const std::int64_t blocks = geometry.blocks();
            for (std::int64_t i = 0; i < blocks * blocks; ++i) {
                const bool first_frame = std::min(i / blocks, i % blocks) * 16 < geometry.protected_tokens();
                const bool text =
                    text_of(geometry) > 0 && (std::max(i / blocks, i % blocks) + 1) * 16 > geometry.video();
                if (first_frame || text) {
                    EXPECT_EQ(grid[static_cast<std::size_t>(i)], 1) << i;
                }
            }
        }
    }
}

}  // namespace
}  // namespace aerogel
