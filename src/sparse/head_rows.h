// The rows of q, k, v or o, head by head.
#pragma once

#include <cstdint>

#include "aerogel/attention.h"
#include "kernels/attention.h"
#include "kernels/planning.h"

namespace aerogel {

/// The rows of one map.
struct MapRows {
    const std::byte* first;
    std::int64_t step;          ///< bytes from one token to the next
    const std::int32_t* order;  ///< null: as they lie

    const std::byte* at(std::int64_t row) const {
        return first + (order == nullptr ? row : order[row]) * step;
    }
};

/// A 4-D q or k as heads of rows.
struct HeadRows {
    const void* data = nullptr;
    AttentionStrides strides;
    std::int64_t batch = 0;
    std::int64_t heads = 0;
    std::int64_t tokens = 0;
    std::int64_t head_dim = 0;
    DType dtype = DType::f32;
    const std::int32_t* order = nullptr;  ///< row i of every map is token order[i]; null: token i

    HeadRows(const TensorView& view, AttentionLayout layout);
    std::int64_t maps() const { return batch * heads; }
    /// Those of map b * heads + h.
    MapRows rows(std::int64_t map) const;
    /// Those of some maps, as kernels take them.
    PlanningRows planning_rows(std::int64_t first_map, std::int64_t maps) const;
    /// Adds a row to `sum` [head_dim] in float32.
    void add_row(const std::byte* row, float* sum) const;
};

/// The map of k that belongs to a map of q; k has as many heads or a divisor of them (GQA).
inline std::int64_t kv_map(const HeadRows& q, const HeadRows& k, std::int64_t map) {
    return map / q.heads * k.heads + map % q.heads / (q.heads / k.heads);
}

/// The end of a prediction that met NaN or infinity. Throws: no mask can be predicted; names the first value
/// of q or k that is not finite.
[[noreturn]] void fail_not_finite(const HeadRows& q, const HeadRows& k);

}  // namespace aerogel
