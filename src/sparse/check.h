// What a sparse call must satisfy; each violation is an InvalidArgument that names both sides and, where it
// is not plain, the way out.
#pragma once

#include "aerogel/tensor.h"
#include "sparse/geometry.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// A call to be planned: q and k 4-D.
struct SparseProblem {
    const TensorView& q;
    const TensorView& k;
    const SparsePattern& pattern;
    const VideoLayout& video;
    const SparsePlanOptions& options;
    const SparseTypeRow& row;  ///< of the pattern's type

    AttentionLayout layout() const { return options.attention.layout; }
    std::int64_t heads() const { return q.dim(layout() == AttentionLayout::bnsd ? 1 : 2); }
};

/// A pattern and the options of its calls alone: what every call with them would be refused for.
void check_settings(const SparsePattern& pattern, const AttentionOptions& options);

/// Checks all of it against each other and returns the sizes of both sides.
SparseSides checked_sides(const SparseProblem& problem);

/// q, k, v and o (4-D) against each other.
void check_arrays(const AttentionArrays& arrays, AttentionLayout layout);

/// Arrays that fit each other against a plan, and the options of its call.
void check_plan(const AttentionArrays& arrays, const SparsePlan& plan, const AttentionOptions& options);

/// One sequence without an axis for the batch, [tokens, heads, head_dim], as a batch of one.
template <typename View>
View batch_of_one(const View& packed) {
    View view = packed;
    view.shape.insert(view.shape.begin(), 1);
    if (packed.strides.size() == 3)
        view.strides.insert(view.strides.begin(), packed.shape[0] * packed.strides[0]);
    return view;
}

}  // namespace aerogel
