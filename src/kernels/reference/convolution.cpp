// Every sum in double, rounded once. A line of y is a task. Packed is the weight as it came.
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/reference/kernels.h"

namespace aerogel::reference {
namespace {

std::size_t convolution_packed_bytes(const ConvolutionProblem& problem) {
    return static_cast<std::size_t>(problem.out_channels * problem.k()) * sizeof(float);
}

void pack_convolution(const ConvolutionProblem& problem, const QuantizedTensor& weight,
                      std::byte* packed) noexcept {
    std::memcpy(packed, weight.data.data(), convolution_packed_bytes(problem));
}

const float* frame_at(const ConvolutionArgs& args, std::int64_t frame, std::int64_t size) {
    if (frame >= 0) return frame < args.x_size.frames ? args.x + frame * size : nullptr;
    frame += args.before_frames;
    return frame < 0 || args.before == nullptr ? nullptr : args.before + frame * size;
}

// Null outside of x.
const float* pixel_at(const ConvolutionProblem& problem, const ConvolutionArgs& args, const Axes& at) {
    const Axes& size = args.x_size;
    if (at.height < 0 || at.width < 0) return nullptr;
    const std::int64_t times = problem.doubled ? 2 : 1, line = at.height / times, column = at.width / times;
    if (line >= size.height || column >= size.width) return nullptr;
    const float* frame = frame_at(args, at.frames, size.height * size.width * problem.channels);
    return frame == nullptr ? nullptr : frame + (line * size.width + column) * problem.channels;
}

double sum_of_taps(const ConvolutionProblem& problem, const ConvolutionArgs& args, const Axes& at,
                   std::int64_t column) {
    const float* w = reinterpret_cast<const float*>(args.packed) + column * problem.k();
    double sum = 0.0;
    for (std::int64_t t = 0; t < problem.kernel.frames; ++t)
        for (std::int64_t i = 0; i < problem.kernel.height; ++i)
            for (std::int64_t j = 0; j < problem.kernel.width; ++j, w += problem.channels) {
                const float* x = pixel_at(problem, args,
                                          {at.frames * problem.stride.frames + t - args.padding.frames,
                                           at.height * problem.stride.height + i - args.padding.height,
                                           at.width * problem.stride.width + j - args.padding.width});
                if (x == nullptr) continue;
                for (std::int64_t c = 0; c < problem.channels; ++c)
                    sum += static_cast<double>(x[c]) * static_cast<double>(w[c]);
            }
    return sum;
}

void run_convolution(const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept {
    parallel_for(args.y_size.frames * args.y_size.height, [&](std::int64_t task, int) {
        const std::int64_t frame = task / args.y_size.height, line = task % args.y_size.height;
        for (std::int64_t pixel = 0; pixel < args.y_size.width; ++pixel) {
            const std::int64_t offset =
                frame * args.y_strides.frames + line * args.y_strides.height + pixel * args.y_strides.width;
            for (std::int64_t n = 0; n < problem.out_channels; ++n) {
                double sum = sum_of_taps(problem, args, {frame, line, pixel}, n);
                if (args.bias != nullptr) sum += args.bias[n];
                if (args.add != nullptr) sum += args.add[offset + n];
                args.y[offset + n] = static_cast<float>(sum);
            }
        }
    });
}

std::size_t no_convolution_workspace(const ConvolutionProblem&, std::int64_t) {
    return 0;
}

}  // namespace

constexpr ConvolutionKernel kConvolution = {"reference.convolution",  takes_convolutions,
                                            convolution_packed_bytes, pack_convolution,
                                            no_convolution_workspace, run_convolution};

}  // namespace aerogel::reference
