// Parts and other shapes of borrowed arrays. View is TensorView or MutableView; no element is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "aerogel/tensor.h"

namespace aerogel {

/// Row-major where the view has no strides.
inline Shape strides_of(const TensorView& view) {
    if (!view.strides.empty()) return view.strides;
    Shape strides(view.shape.size(), 1);
    for (std::size_t axis = view.shape.size(); axis-- > 1;)
        strides[axis - 1] = strides[axis] * view.shape[axis];
    return strides;
}

/// Whether two contiguous arrays share memory. False for others: their elements may lie between each other's.
inline bool overlap(const TensorView& a, const TensorView& b) {
    if (a.device != b.device || !a.contiguous() || !b.contiguous()) return false;
    const auto first = [](const TensorView& view) { return reinterpret_cast<std::uintptr_t>(view.data); };
    const auto bytes = [](const TensorView& view) {
        return static_cast<std::size_t>(view.count()) * size_of(view.dtype);
    };
    return first(a) < first(b) + bytes(b) && first(b) < first(a) + bytes(a);
}

/// `view` from element `offset` on, with another shape and other strides (none: contiguous).
template <typename View>
View part_of(const View& view, std::int64_t offset, Shape shape, Shape strides = {}) {
    return {view.dtype, std::move(shape), view.data_at(offset), std::move(strides), view.device};
}

/// The entries first .. first + count - 1 of the first axis.
template <typename View>
View rows_of(const View& view, std::int64_t first, std::int64_t count) {
    Shape shape = view.shape;
    shape.at(0) = count;
    return part_of(view, first * strides_of(view)[0], std::move(shape), view.strides);
}

/// A contiguous view in another shape of as many elements.
template <typename View>
View reshaped(const View& view, Shape shape) {
    return part_of(view, 0, std::move(shape));
}

}  // namespace aerogel
