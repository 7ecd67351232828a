// Heads of k and v repeated until there are as many as of q.
#include "ops/attention_heads.h"

#include <cstring>

#include "base/thread_pool.h"
#include "ops/attention_checks.h"

namespace aerogel {
namespace {

std::size_t head_axis(AttentionLayout layout) {
    return layout == AttentionLayout::bnsd ? 1 : 2;
}

bool is_plain(const TensorView& view) {
    return view.shape.size() == 4 && (view.strides.empty() || view.strides.size() == 4) &&
           view.device == Device::cpu && (view.dtype == DType::f32 || view.dtype == DType::bf16) &&
           strides_of(view)[3] == 1;
}

Tensor repeated_values(const Tensor& values, std::int64_t groups) {
    const Tensor result(DType::f32, {values.count() * groups});
    for (std::int64_t i = 0; i < result.count(); ++i) result.as<float>()[i] = values.as<float>()[i / groups];
    return result;
}

}  // namespace

std::int64_t head_groups(const TensorView& q, const TensorView& k, const TensorView& v,
                         AttentionLayout layout) {
    if (!is_plain(q) || !is_plain(k) || !is_plain(v)) return 1;
    const std::size_t axis = head_axis(layout);
    const std::int64_t heads = q.shape[axis], own = k.shape[axis];
    const bool divides = own > 0 && own == v.shape[axis] && heads % own == 0;
    return divides ? heads / own : 1;
}

Tensor repeated_heads(const TensorView& view, std::int64_t groups, AttentionLayout layout) {
    const std::size_t axis = head_axis(layout);
    Shape shape = view.shape;
    shape[axis] *= groups;
    const Tensor result(view.dtype, shape);
    const Shape from = strides_of(view), to = strides_of(result.view());
    const std::size_t width = size_of(view.dtype), bytes = static_cast<std::size_t>(shape[3]) * width;
    const std::int64_t rows = shape[0] * shape[1] * shape[2];
    if (bytes == 0) return result;
    parallel_for(rows, [&](std::int64_t row, int) {
        std::int64_t at[3] = {row / (shape[1] * shape[2]), row / shape[2] % shape[1], row % shape[2]};
        const std::int64_t out = at[0] * to[0] + at[1] * to[1] + at[2] * to[2];
        at[axis] /= groups;
        const std::int64_t in = at[0] * from[0] + at[1] * from[1] + at[2] * from[2];
        std::memcpy(static_cast<std::byte*>(result.data()) + static_cast<std::size_t>(out) * width,
                    static_cast<const std::byte*>(view.data) + static_cast<std::size_t>(in) * width, bytes);
    });
    return result;
}

AttentionScales repeated_scales(const AttentionScales& scales, std::int64_t groups) {
    AttentionScales result = scales;
    for (Tensor* part : {&result.k_scale, &result.v_scale, &result.k_offset, &result.v_offset}) {
        if (part->defined() && part->dtype() == DType::f32) *part = repeated_values(*part, groups);
    }
    return result;
}

}  // namespace aerogel
