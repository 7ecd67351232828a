// SSZ: scales (and offsets) by alternating least squares. With the integers fixed the best scale is a linear
// regression of the weights on them; with the scale fixed the best integers are the nearest. After
// msModelSlim's "ssz"; the idea is that of Zhang et al., "LQ-Nets" (ECCV 2018), section 3.2, with one fixed
// basis.
#pragma once

#include "quant/algorithms/integer_grid.h"

namespace aerogel {

inline constexpr int kSszIterations = 50;

/// weight f32|bf16|f16 [n,k] contiguous -> int8 or int4, scale f32 [n,groups] with values of the weight's
/// type, offset too if asked. Starts at minmax, takes at most `iterations` steps (until nothing changes) and
/// keeps the scale of the smallest squared error, so it never errs more than minmax with the same grid.
/// InvalidArgument when the weight is no matrix or not finite, or the groups do not fit; Unsupported for
/// other formats.
QuantizedTensor quantize_ssz(const TensorView& weight, const IntegerOptions& options,
                             int iterations = kSszIterations);

}  // namespace aerogel
