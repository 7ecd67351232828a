// Rotation and low-rank branch, some hundred rows at a time so that scratch stays small.
#include "quant/linear_branches.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "ops/hadamard.h"
#include "quant/algorithms/output_error.h"

namespace aerogel {
namespace {

constexpr std::int64_t kRows = 512;

// Leading axes flattened; a 2-D view may have gaps between its rows.
template <typename View>
View as_rows(const View& view, const char* name, std::int64_t columns) {
    const bool fits = !view.shape.empty() && view.shape.back() == columns && view.device == Device::cpu;
    if (fits && view.contiguous()) return {view.dtype, {view.count() / columns, columns}, view.data};
    if (fits && view.shape.size() == 2 && view.strides[1] == 1) return view;
    throw InvalidArgument(fmt::format("[linear] {} must be rows of {} columns on the CPU, got {}", name,
                                      columns, view.describe()));
}

// The rows of x, which has less types than y.
TensorView checked_rows(const TensorView& x, std::int64_t columns) {
    if (x.dtype != DType::f32 && x.dtype != DType::bf16) {
        throw InvalidArgument("[linear] x " + x.describe() + " must be f32 or bf16");
    }
    return as_rows(x, "x", columns);
}

std::int64_t stride_of(const TensorView& rows) {
    return rows.strides.empty() ? rows.dim(1) : rows.strides[0];
}

template <typename View>
View piece_of(const View& rows, std::int64_t first, std::int64_t count) {
    return {rows.dtype, {count, rows.dim(1)}, rows.data_at(first * stride_of(rows)), rows.strides};
}

// A contiguous f32 copy of f32 or bf16 rows.
Tensor float_rows(const TensorView& rows) {
    Tensor copy(DType::f32, {rows.dim(0), rows.dim(1)});
    const std::int64_t columns = rows.dim(1), stride = stride_of(rows);
    parallel_for(rows.dim(0), [&](std::int64_t row, int) {
        float* out = copy.mutable_as<float>() + row * columns;
        if (rows.dtype == DType::f32) {
            std::copy_n(static_cast<const float*>(rows.data) + row * stride, columns, out);
            return;
        }
        const auto* in = static_cast<const BFloat16*>(rows.data) + row * stride;
        for (std::int64_t i = 0; i < columns; ++i) out[i] = to_float(in[i]);
    });
    return copy;
}

void add(Tensor& to, const TensorView& rows) {
    const std::int64_t columns = to.dim(1), stride = stride_of(rows);
    parallel_for(to.dim(0), [&](std::int64_t row, int) {
        float* sum = to.mutable_as<float>() + row * columns;
        const auto* other = static_cast<const float*>(rows.data) + row * stride;
        for (std::int64_t i = 0; i < columns; ++i) sum[i] += other[i];
    });
}

void store(const Tensor& values, const MutableView& rows) {
    const Tensor typed = rows.dtype == DType::f32 ? values : values.to(rows.dtype);
    const std::size_t bytes = static_cast<std::size_t>(rows.dim(1)) * size_of(rows.dtype);
    const std::size_t stride = static_cast<std::size_t>(stride_of(rows)) * size_of(rows.dtype);
    for (std::size_t row = 0; row < static_cast<std::size_t>(rows.dim(0)); ++row) {
        std::memcpy(static_cast<std::byte*>(rows.data) + row * stride,
                    static_cast<const std::byte*>(typed.data()) + row * bytes, bytes);
    }
}

}  // namespace

Tensor clamped_rows(const TensorView& x, std::int64_t k, const float* mul_scale, ClampRange range) {
    Tensor rows = float_rows(checked_rows(x, k));
    parallel_for(rows.dim(0), [&](std::int64_t row, int) {
        float* values = rows.mutable_as<float>() + row * k;
        for (std::int64_t i = 0; i < k; ++i) {
            const float value = mul_scale == nullptr ? values[i] : values[i] * mul_scale[i];
            values[i] = std::clamp(value, range.low, range.high);
        }
    });
    return rows;
}

LinearBranches::LinearBranches(const QuantizedLinearWeights& weights)
    : n_(weights.weight.rows), k_(weights.weight.columns) {
    if (weights.rotation.defined()) {
        block_ = weights.rotation.dim(1);
        signs_ = weights.rotation.clone().reshaped({k_});
        if (weights.mul_scale.defined()) {
            signs_ = scale_columns(signs_.reshaped({1, k_}), weights.mul_scale).reshaped({k_});
        }
    }
    if (!weights.low_rank_l1.defined()) return;
    Tensor l1 = weights.low_rank_l1;
    if (weights.mul_scale.defined()) l1 = scale_columns(l1.to(DType::f32), weights.mul_scale);
    down_ = std::make_unique<FloatLinear>(l1, Tensor());
    up_ = std::make_unique<FloatLinear>(weights.low_rank_l2, Tensor());
}

void LinearBranches::run(const TensorView& x, const MutableView& y, const Multiply& multiply) const {
    const TensorView in = checked_rows(x, k_);
    const MutableView out = as_rows(y, "y", n_);
    if (in.dim(0) != out.dim(0)) {
        throw InvalidArgument(
            fmt::format("[linear] x and y must have as many rows (x {}, y {})", x.describe(), y.describe()));
    }
    for (std::int64_t first = 0; first < in.dim(0); first += kRows) {
        const std::int64_t count = std::min(kRows, in.dim(0) - first);
        run_piece(piece_of(in, first, count), piece_of(out, first, count), multiply);
    }
}

void LinearBranches::run_piece(const TensorView& x, const MutableView& y, const Multiply& multiply) const {
    // A sum of two products is rounded once, so other types than f32 are summed aside.
    const bool aside = down_ != nullptr && y.dtype != DType::f32;
    Tensor sum = aside ? Tensor(DType::f32, {y.dim(0), n_}) : Tensor();
    const MutableView product = aside ? sum.mutable_view() : y;
    if (rotates()) {
        const bool ready = x.dtype == DType::f32 && x.contiguous();
        const Tensor copy = ready ? Tensor() : float_rows(x);
        Tensor rotated(DType::f32, {x.dim(0), k_});
        hadamard_rows(ready ? x : copy.view(), rotated, block_, signs_);
        multiply(rotated, product);
    } else {
        multiply(x, product);
    }
    if (down_ == nullptr) return;
    Tensor thin(DType::f32, {x.dim(0), down_->out_features()}), wide(DType::f32, {x.dim(0), n_});
    down_->forward(x, thin, StepContext{});
    up_->forward(thin, wide, StepContext{});
    add(wide, product);
    store(wide, y);
}

}  // namespace aerogel
