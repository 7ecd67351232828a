// Kernels of convolutions, channels last: what one is asked and given. A convolution is the matrix product
// y[pixels, out_channels] = patches[pixels, taps * channels] w^T, whose patches are read from x as they are
// needed (implicit GEMM, Chetlur et al., cuDNN, 2014).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// Something of each axis of a video: sizes, steps, places in memory.
struct Axes {
    std::int64_t frames = 1;
    std::int64_t height = 1;
    std::int64_t width = 1;

    std::int64_t count() const { return frames * height * width; }
};

/// The weight: [out_channels, kernel.frames, kernel.height, kernel.width, channels].
struct ConvolutionProblem {
    std::int64_t channels = 1;
    std::int64_t out_channels = 1;
    Axes kernel = {};
    Axes stride = {};
    bool doubled = false;  ///< x counts as twice as high and wide, each pixel four times (nearest)

    std::int64_t k() const { return kernel.count() * channels; }
    /// "channels=96 out=192 kernel=3x3x3", and "stride=1x2x2", "doubled".
    std::string describe() const;
};

/// y[p,:] = bias + add[p,:] + sum over taps of x[p * stride + tap - padding, :] w^T, for pixels p = (frame,
/// line, column) of y. Float32. What lies outside of x is 0, but frames before the first one are those of
/// `before`, as far as they go. Where x is doubled, its pixel (line, column) is x[line / 2, column / 2].
struct ConvolutionArgs {
    const float* x = nullptr;  ///< [frames, height, width, channels], contiguous
    Axes x_size;
    const float* before = nullptr;  ///< [before_frames, height, width, channels] or null
    std::int64_t before_frames = 0;
    Axes padding = {0, 0, 0};  ///< in front of x, doubled where it is
    float* y = nullptr;
    Axes y_size;
    Axes y_strides;                     ///< in elements; channels lie side by side
    const float* add = nullptr;         ///< with the strides of y, may be y; or null
    const float* bias = nullptr;        ///< [out_channels] or null
    const std::byte* packed = nullptr;  ///< made by the same kernel's pack()
    std::byte* workspace = nullptr;     ///< workspace_bytes(), 64-byte aligned
    void* stream = nullptr;             ///< of the device (Context::stream)
};

struct ConvolutionKernel {
    std::string_view name;  ///< "cpu.avx2.convolution"
    /// Empty, or why this kernel refuses the problem.
    std::string (*why_not)(const ConvolutionProblem& problem);
    std::size_t (*packed_bytes)(const ConvolutionProblem& problem);
    /// Packs an f32 matrix [out_channels, k()].
    void (*pack)(const ConvolutionProblem& problem, const QuantizedTensor& weight,
                 std::byte* packed) noexcept;
    std::size_t (*workspace_bytes)(const ConvolutionProblem& problem, std::int64_t pixels);
    void (*run)(const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept;
};

/// why_not() of the kernels that take every convolution, and of Winograd's.
std::string takes_convolutions(const ConvolutionProblem& problem);
std::string takes_winograd(const ConvolutionProblem& problem);

}  // namespace aerogel
