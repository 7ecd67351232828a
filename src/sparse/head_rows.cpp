// Sums by rows of head_dim values; a task is a cell of one head.
#include "sparse/head_rows.h"

#include <cmath>
#include <string>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
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

std::vector<float> cell_means(const HeadRows& rows, const Cells& cells, bool transposed) {
    const auto means = static_cast<std::int64_t>(cells.size());
    const std::int64_t dim = rows.head_dim;
    std::vector<float> result(static_cast<std::size_t>(rows.maps() * means * dim));
    parallel_for(rows.maps() * means, [&](std::int64_t task, int) {
        const std::int64_t map = task / means;
        const std::int64_t index = task % means;
        const auto [begin, end, kept] = cells[static_cast<std::size_t>(index)];
        const MapRows of_map = rows.rows(map);
        float sum[256] = {};
        for (std::int64_t row = begin; row < end; ++row) rows.add_row(of_map.at(row), sum);
        float* out = result.data() + map * means * dim + (transposed ? index : index * dim);
        const std::int64_t step = transposed ? means : 1;
        for (std::int64_t d = 0; d < dim; ++d) out[d * step] = sum[d] / static_cast<float>(end - begin);
    });
    return result;
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
