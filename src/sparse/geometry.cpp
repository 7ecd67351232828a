// Cutting a side into cells.
#include "sparse/geometry.h"

#include <algorithm>

namespace aerogel {
namespace {

void add_cells(Cells& cells, const Cell& stretch, std::int64_t block) {
    for (std::int64_t begin = stretch.begin; begin < stretch.end; begin += block)
        cells.push_back({begin, std::min(begin + block, stretch.end), stretch.always_kept});
}

}  // namespace

std::int64_t SparseGeometry::video() const {
    std::int64_t sum = 0;
    for (const VideoSpan& span : videos) sum += span.latent.tokens();
    return sum;
}

std::int64_t SparseGeometry::video_blocks() const {
    std::int64_t sum = 0;
    for (const VideoSpan& span : videos) sum += (span.latent.tokens() + block - 1) / block;
    return sum;
}

Cells pooled_cells(const SparseGeometry& side) {
    Cells cells;
    std::int64_t begin = 0;
    for (const VideoSpan& span : side.videos) {
        const auto first = cells.size();
        add_cells(cells, {begin, begin + span.latent.tokens(), false}, side.block);
        const std::int64_t frame = side.protect_first_frame ? span.latent.height * span.latent.width : 0;
        const auto sink = first + static_cast<std::size_t>((frame + side.block - 1) / side.block);
        for (auto i = first; i < sink; ++i) cells[i].always_kept = true;
        begin += span.latent.tokens();
    }
    add_cells(cells, {begin, side.tokens, true}, side.block);
    return cells;
}

Cells inside_cells(const SparseGeometry& side) {
    Cells cells;
    add_cells(cells, {0, side.tokens, false}, side.block);
    for (const Cell& pooled : pooled_cells(side)) {
        if (!pooled.always_kept) continue;
        for (std::int64_t i = pooled.begin / side.block; i <= (pooled.end - 1) / side.block; ++i)
            cells[static_cast<std::size_t>(i)].always_kept = true;
    }
    return cells;
}

Cells natural_cells(const SparseGeometry& side) {
    Cells cells;
    add_cells(cells, {0, side.tokens, false}, side.block);
    for (Cell& cell : cells) {
        std::int64_t of_videos = 0;
        for (const auto& [start, latent] : side.videos)
            of_videos += std::max<std::int64_t>(
                std::min(cell.end, start + latent.tokens()) - std::max(cell.begin, start), 0);
        cell.always_kept = of_videos < cell.end - cell.begin;
    }
    return cells;
}

bool all_kept(const Cells& cells) {
    return std::all_of(cells.begin(), cells.end(), [](const Cell& cell) { return cell.always_kept; });
}

void keep_protected(const SparseGeometry& geometry, BlockGrid& grid) {
    const std::int64_t blocks = geometry.blocks();
    for (std::int64_t row = 0; row < blocks; ++row) {
        for (std::int64_t column = 0; column < blocks; ++column) {
            if (geometry.always_kept(row) || geometry.always_kept(column))
                grid[static_cast<std::size_t>(row * blocks + column)] = 1;
        }
    }
}

}  // namespace aerogel
