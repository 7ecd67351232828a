// Copies by rows of head_dim values; a task is a run of rows of one head, small enough for the cache.
#include "sparse/reorder.h"

#include <algorithm>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "ops/attention_checks.h"

namespace aerogel {
namespace {

constexpr std::int64_t kRowsPerTask = 256;

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

// A size known at compile time makes memcpy a few moves instead of a call.
template <std::size_t kBytes>
void copy_fixed(std::byte* to, const std::byte* from) {
    std::memcpy(to, from, kBytes);
}

// Calls body(map, first place, last place) for runs of rows, in parallel.
template <typename Body>
void for_row_ranges(std::int64_t maps, std::int64_t tokens, const Body& body) {
    const std::int64_t ranges = (tokens + kRowsPerTask - 1) / kRowsPerTask;
    parallel_for(maps * ranges, [&](std::int64_t task, int) {
        const std::int64_t begin = task % ranges * kRowsPerTask;
        body(task / ranges, begin, std::min(begin + kRowsPerTask, tokens));
    });
}

template <typename Copy>
void for_pairs(const HeadRows& outside, const OrderOfMap& orders, const HeadRows& inside, const Copy& copy) {
    for_row_ranges(inside.maps(), inside.tokens, [&](std::int64_t map, std::int64_t begin, std::int64_t end) {
        const TokenOrder& order = *orders[static_cast<std::size_t>(map)];
        const MapRows out = outside.rows(map), in = inside.rows(map);
        for (std::int64_t place = begin; place < end; ++place)
            copy(out.row(order[static_cast<std::size_t>(place)]), in.row(place));
    });
}

// Calls run(copy) with the fastest copy(to, from) of one row.
template <typename Run>
void with_row_copy(const HeadRows& rows, const Run& run) {
    const std::size_t bytes = static_cast<std::size_t>(rows.head_dim) * size_of(rows.dtype);
    switch (bytes) {
        case 64:
            return run(copy_fixed<64>);
        case 128:
            return run(copy_fixed<128>);
        case 256:
            return run(copy_fixed<256>);
        case 512:
            return run(copy_fixed<512>);
        default:
            return run([bytes](std::byte* to, const std::byte* from) { std::memcpy(to, from, bytes); });
    }
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

HeadRows HeadRows::repeated(std::int64_t count) const {
    HeadRows more = *this;
    more.group = group * (count / heads);
    more.heads = count;
    return more;
}

MapRows HeadRows::rows(std::int64_t map) const {
    const auto bytes = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t element = map / heads * strides.batch + map % heads / group * strides.head;
    return {static_cast<std::byte*>(data) + element * bytes, strides.token * bytes};
}

void HeadRows::add_row(const std::byte* row, float* sum) const {
    if (dtype == DType::f32) {
        add_values<float>(row, head_dim, sum);
    } else {
        add_values<BFloat16>(row, head_dim, sum);
    }
}

void gather(const HeadRows& outside, const OrderOfMap& orders, const HeadRows& inside) {
    with_row_copy(inside, [&](const auto& copy) {
        for_pairs(outside, orders, inside, [&](std::byte* out, std::byte* in) { copy(in, out); });
    });
}

void scatter(const HeadRows& inside, const OrderOfMap& orders, const HeadRows& outside) {
    with_row_copy(inside, [&](const auto& copy) {
        for_pairs(outside, orders, inside, [&](std::byte* out, std::byte* in) { copy(out, in); });
    });
}

std::vector<float> cell_means(const HeadRows& inside, const Cells& cells, bool transposed) {
    const auto means = static_cast<std::int64_t>(cells.size());
    const std::int64_t dim = inside.head_dim;
    std::vector<float> result(static_cast<std::size_t>(inside.maps() * means * dim));
    parallel_for(inside.maps() * means, [&](std::int64_t task, int) {
        const std::int64_t map = task / means;
        const std::int64_t index = task % means;
        const auto [begin, end, kept] = cells[static_cast<std::size_t>(index)];
        const MapRows rows = inside.rows(map);
        float sum[256] = {};
        for (std::int64_t place = begin; place < end; ++place) inside.add_row(rows.row(place), sum);
        float* out = result.data() + map * means * dim + (transposed ? index : index * dim);
        const std::int64_t step = transposed ? means : 1;
        for (std::int64_t d = 0; d < dim; ++d) out[d * step] = sum[d] / static_cast<float>(end - begin);
    });
    return result;
}

}  // namespace aerogel
