// What surrounds the product of a quantized layer: the order and the rotation of its inputs, and the low-rank
// branch beside it. Ashkboos et al., "QuaRot" (NeurIPS 2024); Li et al., "SVDQuant" (ICLR 2025).
#pragma once

#include <functional>
#include <memory>

#include "aerogel/linear.h"
#include "aerogel/quantized_linear.h"
#include "kernels/hadamard.h"

namespace aerogel {

/// x * mul_scale (null: 1) kept in [low, high], f32 [rows,k]: what makes int8 kernels give the four-bit
/// integers of a static scheme. x f32|bf16 [...,k].
struct ClampRange {
    float low;
    float high;
};
Tensor clamped_rows(const TensorView& x, std::int64_t k, const float* mul_scale, ClampRange range,
                    const Context& context);

class LinearBranches {
  public:
    /// Arrays on the CPU that check_layer() has accepted; they are used on `device`.
    LinearBranches(const QuantizedLinearWeights& weights, Device device);

    /// True when there is nothing around the product.
    bool none() const { return !rotates() && !reorders() && !adds(); }
    /// True when x comes to the product multiplied by mul_scale already.
    bool rotates() const { return signs_.defined(); }
    /// What a kernel needs that rotates on its way, mul_scale included.
    RowRotation rotation() const { return {shape_, signs_.as<float>()}; }
    /// True when the columns of x come to the product in another order.
    bool reorders() const { return order_.defined(); }
    /// [k], what a kernel needs that orders on its way.
    const std::int32_t* order() const { return order_.as<std::int32_t>(); }
    /// True when something is added to the product.
    bool adds() const { return down_ != nullptr; }

    /// y = multiply((x * mul_scale) R) + (x * mul_scale) l1^T l2^T, in pieces of rows. `multiply(x, y)` is
    /// the quantized product with bias; without rotation it gets x as it is, in the order of the columns.
    /// Shapes and errors as Linear::forward. Another order on the CPU only.
    using Multiply = std::function<void(const TensorView& x, const MutableView& y)>;
    void run(const TensorView& x, const MutableView& y, const Multiply& multiply,
             const Context& context) const;

    /// As Linear::move_weight().
    void move(WeightPlace place);

  private:
    Tensor ordered_rows(const TensorView& x, const Context& context) const;
    void run_piece(const TensorView& x, const MutableView& y, const Multiply& multiply,
                   const Context& context) const;

    std::int64_t n_, k_;
    Device device_;
    RotationShape shape_;
    Tensor signs_;  ///< [k], times mul_scale
    Tensor order_;  ///< i32 [k], on the device
    std::unique_ptr<FloatLinear> down_, up_;
};

}  // namespace aerogel
