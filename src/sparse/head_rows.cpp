// Rows of head_dim values of f32 or bf16.
#include "sparse/head_rows.h"

#include <cmath>
#include <string>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "ops/attention.h"

namespace aerogel {
namespace {

template <typename T>
float value_of(T x);
template <>
float value_of(float x) {
    return x;
}
template <>
float value_of(BFloat16 x) {
    return to_float(x);
}

template <typename T>
void add_values(const void* row, std::int64_t count, float* sum) {
    const T* values = static_cast<const T*>(row);
    for (std::int64_t d = 0; d < count; ++d) sum[d] += value_of(values[d]);
}

}  // namespace

HeadRows::HeadRows(const TensorView& view, AttentionLayout layout)
    : data(view.data), head_dim(view.dim(3)), dtype(view.dtype) {
    const std::size_t head_axis = layout == AttentionLayout::bnsd ? 1 : 2;
    const std::size_t token_axis = 3 - head_axis;
    batch = view.dim(0);
    heads = view.dim(head_axis);
    tokens = view.dim(token_axis);
    strides = attention_strides(view, layout);
}

MapRows HeadRows::rows(std::int64_t map) const {
    const auto bytes = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t element = map / heads * strides.batch + map % heads * strides.head;
    return {static_cast<const std::byte*>(data) + element * bytes, strides.token * bytes, order};
}

void HeadRows::add_row(const std::byte* row, float* sum) const {
    if (dtype == DType::f32) {
        add_values<float>(row, head_dim, sum);
    } else {
        add_values<BFloat16>(row, head_dim, sum);
    }
}

PlanningRows HeadRows::planning_rows(std::int64_t first_map, std::int64_t maps_taken) const {
    return {data,       dtype, strides.batch, strides.head, strides.token, first_map,
            maps_taken, heads, tokens,        head_dim,     order};
}

void fail_not_finite(const HeadRows& q, const HeadRows& k) {
    const std::string mend =
        ", so no mask can be predicted; give finite numbers, a mask, or the sparse type none";
    for (const HeadRows* side : {&q, &k}) {
        HeadRows rows = *side;
        rows.order = nullptr;
        for (std::int64_t i = 0; i < rows.maps() * rows.tokens; ++i) {
            float values[256] = {};
            rows.add_row(rows.rows(i / rows.tokens).at(i % rows.tokens), values);
            for (const float x : values) {
                if (!std::isfinite(x))
                    throw InvalidArgument(std::string("[sparse_attention] ") + (side == &k ? "k" : "q") +
                                          " is " + std::to_string(x) + " at batch " +
                                          std::to_string(i / rows.tokens / rows.heads) + ", head " +
                                          std::to_string(i / rows.tokens % rows.heads) + ", token " +
                                          std::to_string(i % rows.tokens) + mend);
            }
        }
    }
    throw InvalidArgument("[sparse_attention] the sums over q and k overflow float32" + mend);
}

}  // namespace aerogel
