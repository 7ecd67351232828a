// Tiles cover their axis, count for 1 together at every place, and add up to the picture they were cut from.
#include "model/vae/tiles.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

TEST(VaeTiles, CountForOneTogether) {
    for (const std::int64_t total : {1, 5, 16, 17, 31, 64, 100}) {
        for (const std::int64_t size : {4, 7, 16, 40, 200}) {
            const TileAxis axis = TileAxis::cut(total, size);
            EXPECT_LE(axis.size, size);
            EXPECT_EQ(axis.starts.front(), 0);
            EXPECT_EQ(axis.starts.back() + axis.size, total);
            constexpr std::int64_t kScale = 3;
            std::vector<double> sums(static_cast<std::size_t>(total * kScale), 0.0);
            std::int64_t begun = 0;
            for (std::size_t tile = 0; tile < axis.starts.size(); ++tile) {
                const std::vector<float> weights = axis.weights(tile, kScale);
                EXPECT_EQ(weights.size(), static_cast<std::size_t>(axis.size * kScale));
                for (std::size_t i = 0; i < weights.size(); ++i)
                    sums.at(static_cast<std::size_t>(axis.starts[tile] * kScale) + i) += weights[i];
                const auto [first, own] = axis.own(tile, kScale);
                EXPECT_EQ(axis.starts[tile] * kScale + first, begun) << total << " " << size;
                EXPECT_LE(first + own, axis.size * kScale);
                begun += own;
                if (tile == 0) continue;
                EXPECT_LE(axis.starts[tile], axis.starts[tile - 1] + axis.size - axis.size / 4);
            }
            EXPECT_EQ(begun, total * kScale);
            for (const double sum : sums) EXPECT_NEAR(sum, 1.0, 1e-6) << total << " " << size;
        }
    }
}

TEST(VaeTiles, AddUpToThePicture) {
    constexpr std::int64_t kFrames = 2, kHeight = 11, kWidth = 14;
    std::vector<float> values(3 * kFrames * kHeight * kWidth);
    std::iota(values.begin(), values.end(), 0.0F);
    const Tensor picture = Tensor::of(values, {3, kFrames, kHeight, kWidth});
    const TileAxis lines = TileAxis::cut(kHeight, 6), columns = TileAxis::cut(kWidth, 8);
    Tensor sum = Tensor::zeros(DType::f32, picture.shape());
    const Shape shape = {3, 1, lines.size, columns.size};
    for (std::int64_t frame = 0; frame < kFrames; ++frame)
        for (std::size_t i = 0; i < lines.starts.size(); ++i)
            for (std::size_t j = 0; j < columns.starts.size(); ++j) {
                Tensor tile(DType::f32, shape);
                const std::int64_t at = (frame * kHeight + lines.starts[i]) * kWidth + columns.starts[j];
                copy(part_of(picture.view(), at, shape,
                             {kFrames * kHeight * kWidth, kHeight * kWidth, kWidth, 1}),
                     tile);
                blend({.picture = sum,
                       .tile = tile,
                       .frame = frame,
                       .line = lines.starts[i],
                       .column = columns.starts[j],
                       .down = lines.weights(i, 1),
                       .across = columns.weights(j, 1)},
                      {});
            }
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(sum.values()[i], values[i], 1e-3);
}

}  // namespace
}  // namespace aerogel
