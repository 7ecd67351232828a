// Moves the heads of q, k, v into the order of their pattern, o back, and takes block means on the way.
// Both run in parallel over (head, block) and only copy rows, so the bits of the values never change.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "sparse/geometry.h"
#include "sparse/token_order.h"

namespace aerogel {

/// The rows of one map.
struct MapRows {
    std::byte* first;
    std::int64_t step;  ///< bytes to the next token

    std::byte* row(std::int64_t token) const { return first + token * step; }
};

/// A 4-D q, k, v or o as heads of rows; element (b, h, token, d) as in AttentionStrides.
struct HeadRows {
    void* data = nullptr;
    AttentionStrides strides;
    std::int64_t batch = 0;
    std::int64_t heads = 0;
    std::int64_t group = 1;  ///< heads that share the same rows
    std::int64_t tokens = 0;
    std::int64_t head_dim = 0;
    DType dtype = DType::f32;

    HeadRows(const TensorView& view, AttentionLayout layout);
    std::int64_t maps() const { return batch * heads; }
    /// The same rows seen as `count` heads, a multiple of what there is (GQA).
    HeadRows repeated(std::int64_t count) const;
    /// Those of map b * heads + h.
    MapRows rows(std::int64_t map) const;
    /// Adds a row to `sum` [head_dim] in float32.
    void add_row(const std::byte* row, float* sum) const;
};

/// Per map, the order of its tokens.
using OrderOfMap = std::vector<const TokenOrder*>;

/// Row `place` of a map of `inside` becomes row order[place] of that map of `outside`.
void gather(const HeadRows& outside, const OrderOfMap& orders, const HeadRows& inside);
/// The inverse: row order[place] of `outside` becomes row `place` of `inside`.
void scatter(const HeadRows& inside, const OrderOfMap& orders, const HeadRows& outside);

/// Means of the rows of each cell, summed in the order of the places in float32 and divided by their number.
/// `transposed`: [maps, head_dim, cells] instead of [maps, cells, head_dim].
std::vector<float> cell_means(const HeadRows& inside, const Cells& cells, bool transposed);

}  // namespace aerogel
