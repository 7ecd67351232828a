// A Linear whose weight is stored in a small format and whose activations may be quantized too.
// layer: quant
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "aerogel/linear.h"
#include "aerogel/quantized_tensor.h"
#include "aerogel/rotation.h"

namespace aerogel {

/// Everything a quantized layer stores, as read from its files.
struct QuantizedLinearWeights {
    std::string scheme =
        {};  ///< "W8A8_DYNAMIC", "W8A16", "W8A8", "W8A8_TIMESTEP", without suffixes such as _SVD
    QuantizedTensor weight = {};
    Tensor bias = {};       ///< f32 [n] or undefined
    Tensor mul_scale = {};  ///< f32 [k] or undefined: x' = x * mul_scale (1 / smoothing factor)
    /// f32 [k / block, block] of +-1 or undefined: the weight is stored times R, the transforms of `block`
    /// columns each after these signs, and x' is multiplied by R at run time.
    Tensor rotation = {};
    RotationKind rotation_kind = RotationKind::hadamard;  ///< of the transforms
    /// i32 [k] or undefined: column i of all arrays belongs to column column_order[i] of x (GPTQ's act order,
    /// without mul_scale; on GPUs without low-rank factors).
    Tensor column_order = {};
    /// f32|bf16|f16 [r,k] and [n,r], or undefined: y += (x' l1^T) l2^T, x' before the rotation.
    Tensor low_rank_l1 = {}, low_rank_l2 = {};
    /// Static scales of the activations, one set per step (W8A8: one in all), or undefined: f32 [steps] twice
    /// (offsets are whole numbers), i32 and f32 [steps,n].
    Tensor input_scale = {}, input_offset = {}, quant_bias = {}, deq_scale = {};
    /// Bytes of the layer's tensors in its files; 0 = count the arrays above.
    std::size_t stored_bytes = 0;
    /// IoError when the mapped file that arrays are views of has been shortened since: they have lost bytes.
    /// Null where none is a view of a file.
    std::function<void()> check_intact = {};

    /// Sets of static scales.
    std::int64_t steps() const { return input_scale.defined() ? input_scale.count() : 0; }
};

/// What a layer keeps of the arrays that it was made from.
enum class KeptArrays : std::uint8_t {
    all,
    /// Not those of the weight, once they are packed in a form that serves whatever a step may ask for:
    /// weights().weight then has sizes and no arrays. Half the memory.
    packed_weight
};

/// Packs the weights once for the best kernel of this machine, for every number of rows.
class QuantizedLinear final : public Linear {
  public:
    /// The arrays lie on the CPU, the layer computes on `device`.
    /// InvalidArgument when the arrays do not fit the scheme; Unsupported for a scheme that Aerogel does not
    /// have.
    explicit QuantizedLinear(QuantizedLinearWeights weights, Device device = {},
                             KeptArrays kept = KeptArrays::all);
    ~QuantizedLinear() override;
    std::int64_t in_features() const override;
    std::int64_t out_features() const override;
    /// As Linear::forward. W8A8_TIMESTEP needs step.timestep_index in [0, steps) where step.dynamic does not
    /// hold: InvalidArgument. Schemes with 4-bit weights and activations heed step.wide_activations.
    void forward(const TensorView& x, const MutableView& y, const StepContext& step) const override;
    /// With the suffixes of the file format: "W4A4_MXFP4_SVD" with a low-rank branch, "..._ROTATED" or
    /// "..._CONVROT".
    std::string scheme() const override;
    std::size_t weight_bytes() const override;
    void move_weight(WeightPlace place) override;
    const QuantizedLinearWeights& weights() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace aerogel
