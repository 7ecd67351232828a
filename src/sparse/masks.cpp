// Conversions between masks of cells, masks of blocks and masks as arrays.
#include "sparse/masks.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// First and last item that cell i reaches into, for each i.
struct Reach {
    std::int64_t first, last;
};

std::vector<Reach> blocks_of(const Cells& cells, std::int64_t block) {
    std::vector<Reach> reach;
    for (const Cell& cell : cells) reach.push_back({cell.begin / block, (cell.end - 1) / block});
    return reach;
}

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

[[noreturn]] void fail_mask(const HeadRows& q, const SparseSides& sides, const TensorView& mask,
                            const HeadPattern& pattern) {
    const Shape wanted = {q.batch, q.heads, static_cast<std::int64_t>(pattern.cells(sides.q).size()),
                          static_cast<std::int64_t>(pattern.cells(sides.k).size())};
    throw InvalidArgument("[sparse_attention] mask must be contiguous bool, u8 or i8 " + to_string(wanted) +
                          " (batch, heads, query blocks, key blocks of " + std::to_string(sides.q.block) +
                          " x " + std::to_string(sides.k.block) + " tokens" +
                          (pattern.q_order != nullptr ? ", or of blocks that divide these" : "") + "), got " +
                          mask.describe());
}

void add_row(const std::vector<std::uint8_t>& kept, BlockMask& mask) {
    for (std::size_t column = 0; column < kept.size(); ++column) {
        if (kept[column] != 0) mask.columns.push_back(static_cast<std::int32_t>(column));
    }
    mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
}

}  // namespace

BlockMask kernel_mask(const HeadRows& q, const SparseSides& sides, const HeadPattern& pattern,
                      const GridOfMap& grids) {
    BlockMask mask{q.batch, q.heads, q.tokens, sides.k.tokens, sides.q.block, sides.k.block, {0}, {}};
    const auto rows = blocks_of(pattern.cells(sides.q), sides.q.block);
    const auto columns = blocks_of(pattern.cells(sides.k), sides.k.block);
    for (const BlockGrid* grid : grids) {
        std::size_t begin = 0;
        for (std::int64_t block = 0; block < mask.q_blocks(); ++block) {
            while (rows[begin].last < block) ++begin;
            std::vector<std::uint8_t> kept(static_cast<std::size_t>(mask.k_blocks()), 0);
            for (std::size_t row = begin; row < rows.size() && rows[row].first <= block; ++row) {
                const std::uint8_t* cells = grid->data() + row * columns.size();
                for (std::size_t column = 0; column < columns.size(); ++column) {
                    if (cells[column] == 0) continue;
                    for (std::int64_t i = columns[column].first; i <= columns[column].last; ++i)
                        kept[static_cast<std::size_t>(i)] = 1;
                }
            }
            add_row(kept, mask);
        }
    }
    return mask;
}

Tensor mask_tensor(const HeadRows& q, const GridOfMap& grids, const SparseSides& sides,
                   const HeadPattern& pattern) {
    Tensor mask(DType::i8, {q.batch, q.heads, static_cast<std::int64_t>(pattern.cells(sides.q).size()),
                            static_cast<std::int64_t>(pattern.cells(sides.k).size())});
    auto* out = static_cast<std::byte*>(mask.mutable_data());
    for (const BlockGrid* grid : grids) {
        std::memcpy(out, grid->data(), grid->size());
        out += grid->size();
    }
    return mask;
}

std::vector<BlockGrid> given_grids(const HeadRows& q, const SparseSides& sides, const TensorView& mask,
                                   const HeadPattern& pattern) {
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape.size() != 4 || !mask.contiguous() || mask.device != Device::cpu ||
        (mask.dim(0) != q.batch && mask.dim(0) != 1) || (mask.dim(1) != q.heads && mask.dim(1) != 1))
        fail_mask(q, sides, mask, pattern);
    const auto fine_q = cells_of_count(sides.q, pattern, mask.dim(2));
    const auto fine_k = cells_of_count(sides.k, pattern, mask.dim(3));
    if (!fine_q || !fine_k) fail_mask(q, sides, mask, pattern);
    const Cells q_cells = pattern.cells(sides.q), k_cells = pattern.cells(sides.k);
    const auto q_parent = parents(*fine_q, q_cells), k_parent = parents(*fine_k, k_cells);
    std::vector<BlockGrid> grids;
    for (std::int64_t map = 0; map < q.maps(); ++map) {
        const std::int64_t batch = mask.dim(0) == 1 ? 0 : map / q.heads;
        const std::int64_t head = mask.dim(1) == 1 ? 0 : map % q.heads;
        const auto* given = static_cast<const std::uint8_t*>(mask.data) +
                            (batch * mask.dim(1) + head) * mask.dim(2) * mask.dim(3);
        BlockGrid& grid = grids.emplace_back(q_cells.size() * k_cells.size(), std::uint8_t{0});
        for (std::size_t row = 0; row < q_parent.size(); ++row) {
            for (std::size_t column = 0; column < k_parent.size(); ++column) {
                if (given[row * k_parent.size() + column] != 0)
                    grid[q_parent[row] * k_cells.size() + k_parent[column]] = 1;
            }
        }
    }
    return grids;
}

}  // namespace aerogel
