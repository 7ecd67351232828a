// Linear layers: y = x w^T + bias. A model holds Linear pointers; quantizing swaps a FloatLinear
// for a QuantizedLinear (aerogel/quantized_linear.h) in place.
// layer: ops
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// What a layer may need to know about the sampling step it runs in.
struct StepContext {
    /// Index of the sampling step, 0-based; -1 = unknown. Timestep-aware layers choose their scales by it.
    int timestep_index = -1;
    /// W8A8_TIMESTEP: take scales per token in this step, whatever scales the layer holds.
    bool dynamic = false;
    /// W4A4 schemes: activations in 8 bits in this step, on the same 4-bit weights.
    bool wide_activations = false;
    /// Threads and stream of the call.
    Context call = {};
};

/// Which memory holds the packed weight of a layer that computes on a GPU.
enum class WeightPlace : std::uint8_t { device, host };

/// y[m, out_features] = x[m, in_features] * w^T + bias, for any m.
class Linear {
  public:
    virtual ~Linear() = default;
    virtual std::int64_t in_features() const = 0;
    virtual std::int64_t out_features() const = 0;
    /// x f32|bf16, on CUDA devices f16 as well, [..., in_features] -> y f32|bf16|f16 [..., out_features]
    /// (last axis contiguous, leading axes flattened; a 2-D view may have a row stride). x and y share no
    /// memory. InvalidArgument when shapes or types do not fit. Safe from several threads.
    virtual void forward(const TensorView& x, const MutableView& y, const StepContext& step) const = 0;
    /// "FLOAT", "W8A8_DYNAMIC" ...
    virtual std::string scheme() const = 0;
    /// Bytes of the weights, scales and bias as stored on disk (not the packed form).
    virtual std::size_t weight_bytes() const = 0;
    /// To `host`: what forward() reads on a GPU waits in host memory, packed as it is, and that of the GPU is
    /// free; forward() throws InvalidArgument meanwhile. To `device`: it comes back by copies. The copy of
    /// the weight in host memory stays. Does nothing on the CPU. No forward() may be running.
    virtual void move_weight(WeightPlace) {}
};

/// A float matrix that lies in a file and is read when it is needed, any number of times.
struct StoredWeight {
    DType dtype = DType::f32;             ///< of what read() gives: f32, bf16 or f16
    Shape shape = {};                     ///< of the same: [n,k]
    std::size_t stored_bytes = 0;         ///< in the file
    std::function<Tensor()> read = {};    ///< a view of the mapped file, or a fresh array; never empty
    std::function<void()> prefetch = {};  ///< asks the system to begin reading; may be empty
    std::function<void()> release = {};   ///< what was mapped leaves this process's memory; may be empty
    std::function<void()> check = {};  ///< IoError when what was read is not what the file held; may be empty
};

/// The unquantized layer: weight f32|bf16|f16 [n,k] computed in float32, bias [n] or undefined. A weight in a
/// file (StoredWeight, or a tensor that is read-only) is packed by the first forward(), which then throws
/// what `check` throws; any other at once.
class FloatLinear final : public Linear {
  public:
    FloatLinear(const Tensor& weight, Tensor bias);
    /// The same on a device, whatever the one that weight and bias lie on.
    FloatLinear(const Tensor& weight, Tensor bias, Device device);
    FloatLinear(StoredWeight weight, Tensor bias, Device device = {});
    ~FloatLinear() override;
    std::int64_t in_features() const override;
    std::int64_t out_features() const override;
    void forward(const TensorView& x, const MutableView& y, const StepContext& step) const override;
    std::string scheme() const override { return "FLOAT"; }
    std::size_t weight_bytes() const override;
    void move_weight(WeightPlace place) override;
    /// The weight as it was given (a view of a mapped file costs no memory of its own), and the bias in f32
    /// or undefined.
    Tensor weight() const;
    const StoredWeight& stored() const;
    const Tensor& bias() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace aerogel
