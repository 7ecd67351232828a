// The part of mirrored_kernels.h for element-wise kernels: which arrays each of them reads and writes.
#pragma once

#include "kernels/mirrored_kernels.h"

namespace aerogel::testing {

/// Elements of an array of modulation: one row per `each` rows.
inline std::int64_t modulation_extent(std::int64_t rows, std::int64_t each, std::int64_t stride,
                                      std::int64_t columns) {
    return rows == 0 ? 0 : extent((rows - 1) / each + 1, stride, columns);
}

inline NormArgs mirrored(Mirror& mirror, const NormArgs& args) {
    NormArgs there = args;
    const std::int64_t parts =
        modulation_extent(args.rows, args.rows_per_modulation, args.modulation_stride, args.columns);
    there.y = mirror.write(args.y, extent(args.rows, args.y_stride, args.columns));
    there.x =
        args.x == args.y ? there.y : mirror.read(args.x, extent(args.rows, args.x_stride, args.columns));
    there.weight = mirror.read(args.weight, args.columns);
    there.bias = mirror.read(args.bias, args.columns);
    there.scale = mirror.read(args.scale, parts);
    there.shift = mirror.read(args.shift, parts);
    return there;
}

inline ActivationArgs mirrored(Mirror& mirror, const ActivationArgs& args) {
    ActivationArgs there = args;
    there.y = mirror.write(args.y, args.count);
    there.x = args.x == args.y ? there.y : mirror.read(args.x, args.count);
    return there;
}

/// Gate and x may be halves of the same rows, and y one of them.
inline GatedArgs mirrored(Mirror& mirror, const GatedArgs& args) {
    GatedArgs there = args;
    const auto of = [&](const float* x, std::int64_t stride) {
        return mirror.read(x, extent(args.rows, stride, args.columns));
    };
    there.y = mirror.write(args.y, extent(args.rows, args.y_stride, args.columns));
    there.gate = args.gate == args.y ? there.y : of(args.gate, args.gate_stride);
    there.x = args.x == args.y ? there.y : of(args.x, args.x_stride);
    return there;
}

inline RopeArgs mirrored(Mirror& mirror, const RopeArgs& args) {
    RopeArgs there = args;
    there.x = mirror.write(args.x, extent(args.rows, args.x_stride, args.heads * args.head_dim));
    there.cos = mirror.read(args.cos, args.tokens * (args.head_dim / 2));
    there.sin = mirror.read(args.sin, args.tokens * (args.head_dim / 2));
    return there;
}

inline ResidualArgs mirrored(Mirror& mirror, const ResidualArgs& args) {
    ResidualArgs there = args;
    there.x = mirror.write(args.x, extent(args.rows, args.x_stride, args.columns));
    there.y = mirror.read(args.y, extent(args.rows, args.y_stride, args.columns));
    there.gate = mirror.read(
        args.gate, modulation_extent(args.rows, args.rows_per_gate, args.gate_stride, args.columns));
    return there;
}

inline CombineArgs mirrored(Mirror& mirror, const CombineArgs& args) {
    CombineArgs there = args;
    there.y = mirror.write(args.y, args.count);
    for (std::size_t term = 0; term < args.terms; ++term)
        there.x[term] = args.x[term] == args.y ? there.y : mirror.read(args.x[term], args.count);
    return there;
}

/// First and last element of a side of a copy, whose strides may be negative.
struct CopyRange {
    std::int64_t first = 0, last = 0;

    CopyRange(const CopyArgs& args, const std::array<std::int64_t, CopyArgs::kMostAxes>& strides) {
        for (std::size_t axis = 0; axis < args.axes; ++axis) {
            const std::int64_t reach = (args.shape[axis] - 1) * strides[axis];
            (reach < 0 ? first : last) += reach;
        }
    }
};

inline CopyArgs mirrored(Mirror& mirror, const CopyArgs& args) {
    CopyArgs there = args;
    for (std::size_t axis = 0; axis < args.axes; ++axis)
        if (args.shape[axis] == 0) return there;
    const CopyRange x(args, args.x_strides), y(args, args.y_strides);
    const auto x_size = static_cast<std::int64_t>(size_of(args.x_type)),
               y_size = static_cast<std::int64_t>(size_of(args.y_type));
    const auto* x_first = static_cast<const std::byte*>(args.x) + x.first * x_size;
    auto* y_first = static_cast<std::byte*>(args.y) + y.first * y_size;
    there.x = mirror.read(x_first, (x.last - x.first + 1) * x_size) - x.first * x_size;
    there.y = mirror.write(y_first, (y.last - y.first + 1) * y_size) - y.first * y_size;
    return there;
}

inline MatchNormsArgs mirrored(Mirror& mirror, const MatchNormsArgs& args) {
    MatchNormsArgs there = args;
    there.x = mirror.write(args.x, args.rows * args.columns);
    there.like = mirror.read(args.like, args.rows * args.columns);
    return there;
}

inline FiniteArgs mirrored(Mirror& mirror, const FiniteArgs& args) {
    FiniteArgs there = args;
    there.x = mirror.read(args.x, args.count);
    return there;
}

inline GroupNormArgs mirrored(Mirror& mirror, const GroupNormArgs& args) {
    GroupNormArgs there = args;
    there.y = mirror.write(args.y, args.rows * args.channels);
    there.x = args.x == args.y ? there.y : mirror.read(args.x, args.rows * args.channels);
    there.weight = mirror.read(args.weight, args.channels);
    there.bias = mirror.read(args.bias, args.channels);
    there.moments = mirror.read(args.moments, 2 * args.groups);
    there.found = mirror.write(args.found, 2 * args.groups);
    const std::int64_t floats = group_norm_floats(args.rows, args.channels);
    there.workspace =
        reinterpret_cast<float*>(mirror.scratch(static_cast<std::size_t>(floats) * sizeof(float)));
    return there;
}

inline SoftmaxArgs mirrored(Mirror& mirror, const SoftmaxArgs& args) {
    SoftmaxArgs there = args;
    there.x = mirror.write(args.x, extent(args.rows, args.x_stride, args.columns));
    return there;
}

inline ClampArgs mirrored(Mirror& mirror, const ClampArgs& args) {
    ClampArgs there = args;
    there.x = mirror.write(args.x, args.count);
    return there;
}

template <const Machine& kThere>
template <std::size_t I>
ElementwiseKernels MirroredMachine<kThere>::mirrored_elementwise() {
    ElementwiseKernels set = {};
    if (I >= kThere.elementwise.size()) return set;
    set.name = kThere.elementwise[I].kernel->name;
    set.norm = [](const NormArgs& args) noexcept { each<I>(&ElementwiseKernels::norm, args); };
    set.activation = [](const ActivationArgs& args) noexcept {
        each<I>(&ElementwiseKernels::activation, args);
    };
    set.gated = [](const GatedArgs& args) noexcept { each<I>(&ElementwiseKernels::gated, args); };
    set.rope = [](const RopeArgs& args) noexcept { each<I>(&ElementwiseKernels::rope, args); };
    set.residual = [](const ResidualArgs& args) noexcept { each<I>(&ElementwiseKernels::residual, args); };
    set.combine = [](const CombineArgs& args) noexcept { each<I>(&ElementwiseKernels::combine, args); };
    set.copy = [](const CopyArgs& args) noexcept { each<I>(&ElementwiseKernels::copy, args); };
    set.match_norms = [](const MatchNormsArgs& args) noexcept {
        each<I>(&ElementwiseKernels::match_norms, args);
    };
    set.group_norm = [](const GroupNormArgs& args) noexcept {
        each<I>(&ElementwiseKernels::group_norm, args);
    };
    set.softmax = [](const SoftmaxArgs& args) noexcept { each<I>(&ElementwiseKernels::softmax, args); };
    set.clamp = [](const ClampArgs& args) noexcept { each<I>(&ElementwiseKernels::clamp, args); };
    set.all_finite = [](const FiniteArgs& args) noexcept {
        bool finite = false;
        run([&](Mirror& mirror) {
            finite = kThere.elementwise[I].kernel->all_finite(mirrored(mirror, args));
        });
        return finite;
    };
    return set;
}

}  // namespace aerogel::testing
