// The mask of a call from Python.
#pragma once

#include <cstdint>
#include <tuple>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "bindings/arrays.h"

namespace aerogel::python {

/// Query and key tokens of a block.
using MaskBlock = std::tuple<std::int64_t, std::int64_t>;

/// The queries and keys that a mask is laid over.
struct MaskedArrays {
    const TensorView& q;
    const TensorView& k;
    AttentionLayout layout;
};

/// Bytes [batch, heads, query blocks, key blocks] as a BlockMask. InvalidArgument, in the name of `op`, when
/// they do not fit.
BlockMask mask_of(const Array& mask, const MaskBlock& block, const char* op, const MaskedArrays& arrays);

}  // namespace aerogel::python
