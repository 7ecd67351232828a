// Masks from Python: checked, then compressed to rows of blocks.
#include "bindings/block_mask.h"

#include <nanobind/stl/tuple.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "aerogel/error.h"

namespace aerogel::python {

BlockMask mask_of(const Array& given, const MaskBlock& block, const char* op, const MaskedArrays& arrays) {
    const auto& [q, k, layout] = arrays;
    const std::string where = "[" + std::string(op) + "] ";
    if (q.shape.size() != 4 || k.shape.size() != 4) {
        throw InvalidArgument(where + "q, k and v must have 4 axes, got q " + q.describe() + ", k " +
                              k.describe());
    }
    const TensorView mask = view_of(given);
    const std::size_t heads = layout == AttentionLayout::bnsd ? 1 : 2, tokens = 3 - heads;
    BlockMask geometry;
    geometry.batch = q.dim(0);
    geometry.heads = q.dim(heads);
    geometry.q_len = q.dim(tokens);
    geometry.k_len = k.dim(tokens);
    std::tie(geometry.block_q, geometry.block_k) = block;
    const Shape wanted = {geometry.batch, geometry.heads, geometry.q_blocks(), geometry.k_blocks()};
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape != wanted || !mask.contiguous()) {
        throw InvalidArgument(where + "mask must be contiguous bool, uint8 or int8 " + to_string(wanted) +
                              " (batch, heads, query blocks, key blocks), got " + mask.describe());
    }
    return BlockMask::from_dense(static_cast<const std::uint8_t*>(mask.data), geometry);
}

}  // namespace aerogel::python
