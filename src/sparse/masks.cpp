// Which cells of a given mask lie in which of a pattern.
#include "sparse/masks.h"

#include <optional>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// Cells of the largest block size that divides the side's and makes `count` of them.
std::optional<Cells> cells_of_count(const SparseGeometry& side, const HeadPattern& pattern,
                                    std::int64_t count) {
    const std::int64_t finest = pattern.q_order != nullptr ? 1 : side.block;
    for (std::int64_t block = side.block; block >= finest; --block) {
        if (side.block % block != 0) continue;
        SparseGeometry at_block = side;
        at_block.block = block;
        Cells cells = pattern.cells(at_block);
        if (static_cast<std::int64_t>(cells.size()) == count) return cells;
        if (static_cast<std::int64_t>(cells.size()) > count) break;
    }
    return std::nullopt;
}

[[noreturn]] void fail_mask(const GivenMask& given) {
    const auto& [q, sides, mask, pattern, device] = given;
    const Shape wanted = {q.batch, q.heads, static_cast<std::int64_t>(pattern.cells(sides.q).size()),
                          static_cast<std::int64_t>(pattern.cells(sides.k).size())};
    throw InvalidArgument("[sparse_attention] mask must be contiguous bool, u8 or i8 " + to_string(wanted) +
                          " (batch, heads, query blocks, key blocks of " + std::to_string(sides.q.block) +
                          " x " + std::to_string(sides.k.block) + " tokens" +
                          (pattern.q_order != nullptr ? ", or of blocks that divide these" : "") + "), got " +
                          mask.describe());
}

}  // namespace

std::optional<std::vector<IndexRange>> mask_parts(const SparseGeometry& side, const HeadPattern& pattern,
                                                  std::int64_t count) {
    const auto fine = cells_of_count(side, pattern, count);
    if (!fine) return std::nullopt;
    std::vector<IndexRange> parts;
    std::int32_t next = 0;
    for (const Cell& cell : pattern.cells(side)) {
        const std::int32_t first = next;
        while (next < static_cast<std::int32_t>(fine->size()) &&
               (*fine)[static_cast<std::size_t>(next)].begin < cell.end)
            ++next;
        parts.push_back({first, next});
    }
    return parts;
}

void check_mask(const GivenMask& given) {
    const auto& [q, sides, mask, pattern, device] = given;
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape.size() != 4 || !mask.contiguous() || mask.device != device ||
        (mask.dim(0) != q.batch && mask.dim(0) != 1) || (mask.dim(1) != q.heads && mask.dim(1) != 1) ||
        !cells_of_count(sides.q, pattern, mask.dim(2)) || !cells_of_count(sides.k, pattern, mask.dim(3)))
        fail_mask(given);
}

}  // namespace aerogel
