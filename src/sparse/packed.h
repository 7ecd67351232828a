// One sequence without an axis for the batch.
#pragma once

#include "aerogel/tensor.h"

namespace aerogel {

/// [tokens, heads, head_dim] as a batch of one.
inline TensorView batch_of_one(const TensorView& packed) {
    TensorView view = packed;
    view.shape.insert(view.shape.begin(), 1);
    if (packed.strides.size() == 3)
        view.strides.insert(view.strides.begin(), packed.shape[0] * packed.strides[0]);
    return view;
}

}  // namespace aerogel
