// Convolutions of pictures and videos, channels last: a weight packed once for the best kernel.
#pragma once

#include <cstdint>
#include <string_view>

#include "aerogel/context.h"
#include "aerogel/tensor.h"
#include "kernels/convolution.h"
#include "ops/packed_array.h"

namespace aerogel {

/// How the taps of a convolution meet the pixels; see ConvolutionArgs.
struct ConvolutionForm {
    Axes stride = {};
    Axes padding = {0, 0, 0};  ///< zeros in front of the first frame, line and column
    /// x is doubled in height and width first, each pixel four times (nearest).
    bool doubled = false;
};

struct ConvolutionCall {
    TensorView x;            ///< f32 [frames, height, width, in_channels], contiguous
    MutableView y;           ///< f32 [frames, height, width, out_channels]; channels side by side
    TensorView before = {};  ///< the last frames before x, or no data: zeros; contiguous
    TensorView add = {};     ///< added to y; its shape and strides; may be y
};

class Convolution {
  public:
    /// weight f32|bf16|f16 [out, in, height, width] or [out, in, frames, height, width], as PyTorch has it;
    /// bias [out] or undefined. Computes in float32. InvalidArgument.
    Convolution(const Tensor& weight, const Tensor& bias, const ConvolutionForm& form, Device device = {});

    std::int64_t in_channels() const { return problem_.channels; }
    std::int64_t out_channels() const { return problem_.out_channels; }
    /// Frames before x that can count: kernel frames - 1.
    std::int64_t memory() const { return problem_.kernel.frames - 1; }
    std::string_view kernel_name() const { return kernel_->name; }

    /// y has any size: what is read outside of x counts as zero. On the weight's device. InvalidArgument.
    void run(const ConvolutionCall& call, const Context& context = {}) const;
    /// As Linear::move_weight().
    void move_weight(WeightPlace place) {
        packed_.move(place);
        move_array(bias_, place, packed_.device());
    }

  private:
    void pack(const Tensor& weight, Device device);
    void run_kernel(ConvolutionArgs args, const Context& context) const;

    ConvolutionProblem problem_;
    ConvolutionForm form_;
    const ConvolutionKernel* kernel_ = nullptr;
    PackedArray packed_;
    Tensor bias_;
};

}  // namespace aerogel
