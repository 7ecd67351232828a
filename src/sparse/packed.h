// One sequence without an axis for the batch.
#pragma once

#include "aerogel/tensor.h"

namespace aerogel {

/// [tokens, heads, head_dim] as a batch of one.
template <typename View>
View batch_of_one(const View& packed) {
    View view = packed;
    view.shape.insert(view.shape.begin(), 1);
    if (packed.strides.size() == 3)
        view.strides.insert(view.strides.begin(), packed.shape[0] * packed.strides[0]);
    return view;
}

}  // namespace aerogel
