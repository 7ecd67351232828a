// The convolution row of CUDA: weights in bf16 parts, packed on the host, and one launch.
#include <cmath>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "kernels/cuda/convolution_args.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_args.h"

namespace aerogel::cuda {

extern const Image kConvolutionImage;

namespace {

constexpr Kernel kWide = {kConvolutionImage, "aerogel_convolution_wide"},
                 kNarrow = {kConvolutionImage, "aerogel_convolution_narrow"},
                 kExact = {kConvolutionImage, "aerogel_convolution_exact"};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

/// Where the numbers of a packed weight lie: convolution_args.h.
struct PartsOfWeight {
    // Two parts leave 2^-17 of a number, which is little beside sums of so many products.
    explicit PartsOfWeight(const ConvolutionProblem& problem)
        : parts(problem.k() >= 1024 ? 2 : 3),
          padded_channels(ceil_div(problem.channels, 4) * 4),
          slabs(ceil_div(problem.kernel.count() * padded_channels, kConvolutionSlab)),
          rows(ceil_div(problem.out_channels, kWideConvolution.columns) * kWideConvolution.columns) {}

    std::size_t bytes() const {
        return static_cast<std::size_t>(slabs * rows * parts * kConvolutionSlab * 2);
    }
    /// Part 0 of number p of a patch; others follow at 512 bytes.
    std::int64_t place(std::int64_t row, std::int64_t p) const {
        const std::int64_t eight_rows = 512 * parts, in_step = place_in_step(static_cast<int>(p % 16));
        return (p / kConvolutionSlab * rows + row) / 8 * eight_rows + p % 32 / 16 * 256 + in_step / 8 * 128 +
               row % 8 * 16 + in_step % 8 * 2;
    }

    std::int64_t parts, padded_channels, slabs, rows;
};

std::string why_not(const ConvolutionProblem& problem) {
    constexpr std::int64_t kMost = std::int64_t{1} << 28;
    if (problem.k() > kMost || problem.out_channels > kMost)
        return "takes patches of at most 2^28 numbers and as many channels";
    return takes_convolutions(problem);
}

std::size_t packed_bytes(const ConvolutionProblem& problem) {
    return PartsOfWeight(problem).bytes();
}

void pack(const ConvolutionProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    const PartsOfWeight to(problem);
    std::memset(packed, 0, to.bytes());
    const auto* from = static_cast<const float*>(weight.data.data());
    parallel_for(problem.out_channels, [&](std::int64_t n, int) {
        const std::int64_t row = neighbour_order(n);
        for (std::int64_t i = 0; i < problem.k(); ++i) {
            const std::int64_t p = i / problem.channels * to.padded_channels + i % problem.channels;
            std::byte* place = packed + to.place(row, p);
            float rest = from[n * problem.k() + i];
            for (std::int64_t part = 0; part < to.parts; ++part, place += 512) {
                const BFloat16 half = to_bfloat16(rest);
                std::memcpy(place, &half, sizeof(half));
                rest = std::isfinite(to_float(half)) ? rest - to_float(half) : 0.0F;
            }
        }
    });
}

std::size_t no_workspace(const ConvolutionProblem&, std::int64_t) {
    return 0;
}

PixelSize as_size(const Axes& axes) {
    return {static_cast<std::int32_t>(axes.frames), static_cast<std::int32_t>(axes.height),
            static_cast<std::int32_t>(axes.width)};
}

bool at_16_bytes(const void* array) {
    return reinterpret_cast<std::uintptr_t>(array) % 16 == 0;
}

ConvolutionKernelArgs kernel_args(const ConvolutionProblem& problem, const ConvolutionArgs& args) {
    const PartsOfWeight weight(problem);
    const Axes& strides = args.y_strides;
    ConvolutionKernelArgs to = {};
    to.x = args.x;
    to.before = args.before;
    to.w = reinterpret_cast<const unsigned char*>(args.packed);
    to.bias = args.bias;
    to.add = args.add;
    to.y = args.y;
    to.pixels = args.y_size.count();
    to.y_frame = strides.frames, to.y_line = strides.height, to.y_pixel = strides.width;
    to.x_size = as_size(args.x_size), to.y_size = as_size(args.y_size);
    to.kernel = as_size(problem.kernel), to.stride = as_size(problem.stride);
    to.padding = as_size(args.padding);
    to.before_frames = args.before == nullptr ? 0 : static_cast<std::int32_t>(args.before_frames);
    to.channels = static_cast<std::int32_t>(problem.channels);
    to.padded_channels = static_cast<std::int32_t>(weight.padded_channels);
    to.out_channels = static_cast<std::int32_t>(problem.out_channels);
    to.slabs = static_cast<std::int32_t>(weight.slabs);
    to.w_rows = static_cast<std::int32_t>(weight.rows);
    to.doubled = problem.doubled ? 1 : 0;
    to.x_aligned = problem.channels % 4 == 0 && at_16_bytes(args.x) && at_16_bytes(args.before);
    to.y_aligned = strides.frames % 4 == 0 && strides.height % 4 == 0 && strides.width % 4 == 0 &&
                   at_16_bytes(args.y) && at_16_bytes(args.add);
    return to;
}

std::int64_t blocks_of(const ConvolutionTile& tile, const ConvolutionKernelArgs& args) {
    return ceil_div(args.pixels, tile.rows) * ceil_div(args.out_channels, tile.columns);
}

void run(const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept {
    ConvolutionKernelArgs to = kernel_args(problem, args);
    const bool exact = PartsOfWeight(problem).parts == kExactConvolution.parts;
    const bool wide = !exact && to.out_channels > kNarrowConvolution.columns &&
                      blocks_of(kWideConvolution, to) >= here().multiprocessors &&
                      kWideConvolution.shared_bytes() <= here().shared_per_block;
    const ConvolutionTile& tile = exact ? kExactConvolution : wide ? kWideConvolution : kNarrowConvolution;
    to.column_tiles = static_cast<std::int32_t>(ceil_div(to.out_channels, tile.columns));
    launch(exact  ? kExact
           : wide ? kWide
                  : kNarrow,
           {{static_cast<unsigned>(blocks_of(tile, to))},
            {static_cast<unsigned>(tile.threads)},
            static_cast<std::size_t>(tile.shared_bytes())},
           args.stream, to);
}

}  // namespace

const ConvolutionKernel kConvolution = {
    "cuda.sm80.convolution", why_not, packed_bytes, pack, no_workspace, run};

}  // namespace aerogel::cuda
