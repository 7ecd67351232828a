// What FloatLinear and QuantizedLinear share: a weight packed once for the best kernel, and the checks
// and scratch memory of a call.
#pragma once

#include <string_view>

#include "aerogel/context.h"
#include "aerogel/quantized_tensor.h"
#include "aerogel/tensor.h"
#include "kernels/linear.h"
#include "ops/packed_array.h"

namespace aerogel {

/// A weight in the packed form of the kernel chosen for it. Serves any m, f32 and bf16 x (and f16 on CUDA
/// devices); f32, bf16 and f16 y.
class PackedLinear {
  public:
    /// Chooses and packs on `device`, wherever the weight lies, for `activation` and those that
    /// same_packing() joins with it. InvalidArgument when the weight's arrays do not fit its format,
    /// Unsupported when no kernel takes the problem. The weight is not needed afterwards.
    PackedLinear(const QuantizedTensor& weight, Activation activation, Device device = {});

    std::int64_t n() const { return problem_.n; }
    std::int64_t k() const { return problem_.k; }
    std::string_view kernel_name() const { return kernel_->name; }
    /// Whether run() takes these activations.
    bool serves(Activation activation) const;
    /// Whether run() takes args.rotation: rows are then rotated on their way, without an array between.
    bool rotates(const RotationShape& shape) const {
        return kernel_->rotates && shape.block <= kernel_->most_rotated;
    }
    /// Whether run() takes args.column_order.
    bool orders() const { return kernel_->orders; }
    /// Whether run() takes x of f16.
    bool takes_f16() const { return kernel_->f16; }

    /// y[..., n] = x[..., k] w^T as kernels/linear.h spells out; `args` brings the arrays of the epilogue
    /// and mul_scale, the rest is filled in here. x f32|bf16 (|f16 where taken), y f32|bf16|f16, on the
    /// weight's device, last axis contiguous, more than two axes only when contiguous. InvalidArgument when
    /// shapes, types or `activation` do not fit.
    void run(const TensorView& x, const MutableView& y, Activation activation, LinearArgs args,
             const Context& context = {}) const;

    void move(WeightPlace place) { packed_.move(place); }
    /// InvalidArgument while the weight waits in host memory.
    void require_here() const { packed_.data(); }

  private:
    LinearProblem problem_;
    const LinearKernel* kernel_ = nullptr;
    PackedArray packed_;
};

}  // namespace aerogel
