// The mask of a call from Python.
#pragma once

#include <optional>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "bindings/arrays.h"

namespace aerogel::python {

/// options["mask"], bytes [batch, heads, query blocks, key blocks], laid over q and k with blocks of
/// options["block"] = (query tokens, key tokens); nullopt when there is none. InvalidArgument, in the name of
/// `op`, when it does not fit.
std::optional<BlockMask> mask_in(const nb::dict& options, const char* op, const TensorView& q,
                                 const TensorView& k, AttentionLayout layout);

}  // namespace aerogel::python
