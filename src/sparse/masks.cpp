// Fine cells of a given mask go to the cells they lie in.
#include "sparse/masks.h"

#include <algorithm>
#include <optional>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// The coarse cell each fine cell lies in.
std::vector<std::size_t> parents(const Cells& fine, const Cells& coarse) {
    std::vector<std::size_t> result;
    std::size_t parent = 0;
    for (const Cell& cell : fine) {
        while (coarse[parent].end <= cell.begin) ++parent;
        result.push_back(parent);
    }
    return result;
}

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
    const auto& [q, sides, mask, pattern] = given;
    const Shape wanted = {q.batch, q.heads, static_cast<std::int64_t>(pattern.cells(sides.q).size()),
                          static_cast<std::int64_t>(pattern.cells(sides.k).size())};
    throw InvalidArgument("[sparse_attention] mask must be contiguous bool, u8 or i8 " + to_string(wanted) +
                          " (batch, heads, query blocks, key blocks of " + std::to_string(sides.q.block) +
                          " x " + std::to_string(sides.k.block) + " tokens" +
                          (pattern.q_order != nullptr ? ", or of blocks that divide these" : "") + "), got " +
                          mask.describe());
}

}  // namespace

void place_given(const GivenMask& given, std::uint8_t* grid) {
    const auto& [q, sides, mask, pattern] = given;
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape.size() != 4 || !mask.contiguous() || mask.device != Device::cpu ||
        (mask.dim(0) != q.batch && mask.dim(0) != 1) || (mask.dim(1) != q.heads && mask.dim(1) != 1))
        fail_mask(given);
    const auto fine_q = cells_of_count(sides.q, pattern, mask.dim(2));
    const auto fine_k = cells_of_count(sides.k, pattern, mask.dim(3));
    if (!fine_q || !fine_k) fail_mask(given);
    const Cells q_cells = pattern.cells(sides.q), k_cells = pattern.cells(sides.k);
    const auto q_parent = parents(*fine_q, q_cells), k_parent = parents(*fine_k, k_cells);
    const std::size_t cells = q_cells.size() * k_cells.size();
    for (std::int64_t map = 0; map < q.maps(); ++map, grid += cells) {
        const std::int64_t batch = mask.dim(0) == 1 ? 0 : map / q.heads;
        const std::int64_t head = mask.dim(1) == 1 ? 0 : map % q.heads;
        const auto* of_map = static_cast<const std::uint8_t*>(mask.data) +
                             (batch * mask.dim(1) + head) * mask.dim(2) * mask.dim(3);
        std::fill_n(grid, cells, std::uint8_t{0});
        for (std::size_t row = 0; row < q_parent.size(); ++row) {
            for (std::size_t column = 0; column < k_parent.size(); ++column) {
                if (of_map[row * k_parent.size() + column] != 0)
                    grid[q_parent[row] * k_cells.size() + k_parent[column]] = 1;
            }
        }
    }
}

}  // namespace aerogel
