// Order, rotation and low-rank branch, some hundred rows at a time so that scratch stays small.
#include "quant/linear_branches.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "core/views.h"
#include "ops/elementwise.h"
#include "ops/hadamard.h"
#include "ops/packed_array.h"
#include "quant/algorithms/output_error.h"
#include "quant/layer_arrays.h"

namespace aerogel {
namespace {

constexpr std::int64_t kRows = 512;

// Leading axes flattened; a 2-D view may have gaps between its rows.
template <typename View>
View as_rows(const View& view, const char* name, std::int64_t columns) {
    const bool fits = !view.shape.empty() && view.shape.back() == columns;
    if (fits && view.contiguous()) return reshaped(view, {view.count() / columns, columns});
    if (fits && view.shape.size() == 2 && view.strides[1] == 1) return view;
    throw InvalidArgument(
        fmt::format("[linear] {} must be rows of {} columns, got {}", name, columns, view.describe()));
}

// The rows of x, which has less types than y.
TensorView checked_rows(const TensorView& x, std::int64_t columns) {
    const bool half = x.dtype == DType::f16 && x.device != Device::cpu;  // as the kernels there
    if (x.dtype != DType::f32 && x.dtype != DType::bf16 && !half) {
        throw InvalidArgument("[linear] x " + x.describe() + " must be f32 or bf16");
    }
    return as_rows(x, "x", columns);
}

// A contiguous f32 copy of rows.
Tensor float_rows(const TensorView& rows, const Context& context) {
    Tensor values(DType::f32, rows.shape, rows.device);
    copy(rows, values, context);
    return values;
}

// By operations, as the rows are not the host's to touch.
Tensor clamped_there(Tensor rows, const float* mul_scale, ClampRange range, const Context& context) {
    if (mul_scale != nullptr && rows.count() != 0) {
        Tensor scaled = Tensor::zeros(DType::f32, rows.shape(), rows.device());
        residual(scaled, rows, TensorView{DType::f32, {1, rows.dim(1)}, mul_scale, {}, rows.device()},
                 context);
        rows = scaled;
    }
    clamp(rows, range.low, range.high, context);
    return rows;
}

}  // namespace

Tensor clamped_rows(const TensorView& x, std::int64_t k, const float* mul_scale, ClampRange range,
                    const Context& context) {
    Tensor rows = float_rows(checked_rows(x, k), context);
    if (x.device != Device::cpu) return clamped_there(rows, mul_scale, range, context);
    auto* const all = rows.mutable_as<float>();
    const auto clamp = [&](std::int64_t row, int) {
        float* values = all + row * k;
        for (std::int64_t i = 0; i < k; ++i) {
            const float value = mul_scale == nullptr ? values[i] : values[i] * mul_scale[i];
            values[i] = std::clamp(value, range.low, range.high);
        }
    };
    run_operation([&] { parallel_for(rows.dim(0), clamp); }, context.threads);
    return rows;
}

LinearBranches::LinearBranches(const QuantizedLinearWeights& weights, Device device)
    : n_(weights.weight.rows), k_(weights.weight.columns), device_(device) {
    if (weights.rotation.defined()) {
        shape_ = rotation_of(weights);
        signs_ = weights.rotation.clone().reshaped({k_});
        if (weights.mul_scale.defined()) {
            signs_ = scale_columns(signs_.reshaped({1, k_}), weights.mul_scale).reshaped({k_});
        }
        signs_ = signs_.to(device);
    }
    if (weights.column_order.defined()) order_ = weights.column_order.clone().to(device);
    if (!weights.low_rank_l1.defined()) return;
    Tensor l1 = weights.low_rank_l1;
    if (weights.mul_scale.defined()) l1 = scale_columns(l1.to(DType::f32), weights.mul_scale);
    down_ = std::make_unique<FloatLinear>(l1, Tensor(), device);
    up_ = std::make_unique<FloatLinear>(weights.low_rank_l2, Tensor(), device);
}

void LinearBranches::move(WeightPlace place) {
    for (Tensor* array : {&signs_, &order_}) move_array(*array, place, device_);
    for (FloatLinear* layer : {down_.get(), up_.get()})
        if (layer != nullptr) layer->move_weight(place);
}

void LinearBranches::run(const TensorView& x, const MutableView& y, const Multiply& multiply,
                         const Context& context) const {
    const TensorView in = checked_rows(x, k_);
    const MutableView out = as_rows(y, "y", n_);
    if (in.dim(0) != out.dim(0)) {
        throw InvalidArgument(
            fmt::format("[linear] x and y must have as many rows (x {}, y {})", x.describe(), y.describe()));
    }
    for (std::int64_t first = 0; first < in.dim(0); first += kRows) {
        const std::int64_t count = std::min(kRows, in.dim(0) - first);
        run_piece(rows_of(in, first, count), rows_of(out, first, count), multiply, context);
    }
}

// float32, so that kernels of any kind take them.
Tensor LinearBranches::ordered_rows(const TensorView& x, const Context& context) const {
    Tensor rows(DType::f32, x.shape);
    const auto* order = order_.as<std::int32_t>();
    const std::int64_t stride = x.contiguous() ? k_ : x.strides[0];
    const auto gather = [&](std::int64_t row, int) {
        float* to = rows.mutable_as<float>() + row * k_;
        if (x.dtype == DType::f32) {
            const float* from = x.as<float>() + row * stride;
            for (std::int64_t i = 0; i < k_; ++i) to[i] = from[order[i]];
        } else {
            const BFloat16* from = x.as<BFloat16>() + row * stride;
            for (std::int64_t i = 0; i < k_; ++i) to[i] = to_float(from[order[i]]);
        }
    };
    run_operation([&] { parallel_for(x.dim(0), gather); }, context.threads);
    return rows;
}

void LinearBranches::run_piece(const TensorView& given, const MutableView& y, const Multiply& multiply,
                               const Context& context) const {
    const Tensor ordered = reorders() ? ordered_rows(given, context) : Tensor();
    const TensorView x = reorders() ? ordered.view() : given;
    // A sum of two products is rounded once, so other types than f32 are summed aside.
    const bool aside = adds() && y.dtype != DType::f32;
    Tensor sum = aside ? Tensor(DType::f32, {y.dim(0), n_}, y.device) : Tensor();
    const MutableView product = aside ? sum.mutable_view() : y;
    if (rotates()) {
        const bool ready = x.dtype == DType::f32 && x.contiguous();
        const Tensor dense = ready ? Tensor() : float_rows(x, context);
        Tensor rotated(DType::f32, {x.dim(0), k_}, x.device);
        hadamard_rows(ready ? x : dense.view(), rotated, shape_, signs_, context);
        multiply(rotated, product);
    } else {
        multiply(x, product);
    }
    if (!adds()) return;
    StepContext step;
    step.call = context;
    Tensor thin(DType::f32, {x.dim(0), down_->out_features()}, x.device);
    Tensor wide(DType::f32, {x.dim(0), n_}, x.device);
    down_->forward(x, thin, step);
    up_->forward(thin, wide, step);
    residual(wide, product, {}, context);
    copy(wide, y, context);
}

}  // namespace aerogel
