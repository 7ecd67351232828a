// Which key blocks each query block attends to, per head, as compressed sparse rows (CSR).
// A kernel knows nothing else about sparsity.
// layer: core
#pragma once

#include <cstdint>
#include <vector>

namespace aerogel {

/// Block mask of `batch * heads` attention maps of q_len x k_len tokens, cut into blocks of
/// block_q x block_k tokens (the last ones may be short). Row r of map i is row i*q_blocks()+r.
struct BlockMask {
    std::int64_t batch = 0;
    std::int64_t heads = 0;
    std::int64_t q_len = 0;
    std::int64_t k_len = 0;
    std::int64_t block_q = 0;
    std::int64_t block_k = 0;
    /// batch*heads*q_blocks()+1 offsets into `columns`.
    std::vector<std::int64_t> row_start = {};
    /// Kept key blocks of each row, ascending.
    std::vector<std::int32_t> columns = {};

    /// 0 where there are no blocks of that size.
    std::int64_t q_blocks() const { return block_q > 0 ? (q_len + block_q - 1) / block_q : 0; }
    std::int64_t k_blocks() const { return block_k > 0 ? (k_len + block_k - 1) / block_k : 0; }
    /// Kept share of the q_len x k_len scores (short blocks count by their tokens), over all maps or of one
    /// map. Looks through the whole mask first: errors of check().
    double density() const;
    double density(std::int64_t map) const;
    /// Throws InvalidArgument when the arrays are inconsistent (sizes, order, range).
    void check() const;

    /// Makes one from a dense byte mask [batch, heads, q_blocks, k_blocks] (non-zero = kept); `geometry` has
    /// the sizes. InvalidArgument for sizes that check() refuses and for no mask.
    static BlockMask from_dense(const std::uint8_t* dense, const BlockMask& geometry);
    /// The same as dense bytes [batch, heads, q_blocks, k_blocks] of 0 and 1.
    std::vector<std::uint8_t> to_dense() const;
};

}  // namespace aerogel
