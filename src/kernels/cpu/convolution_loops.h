// The convolutions of every CPU level: panels of float weights through the register kernel of the float
// linear kernels. A block of patches is gathered where that kernel would read rows of x, so patches never
// exist as a whole.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/convolution.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

/// A pixel of y; counts on in the order of rows.
struct Pixel {
    Pixel(const ConvolutionArgs& args, std::int64_t row)
        : height(args.y_size.height),
          width(args.y_size.width),
          frame(row / (height * width)),
          line(row / width % height),
          column(row % width) {}

    void advance() {
        if (++column < width) return;
        column = 0;
        if (++line < height) return;
        line = 0;
        ++frame;
    }

    std::int64_t height, width;
    std::int64_t frame, line, column;
};

/// The start of a frame of x or of those before it; null: a frame of zeros.
inline const float* frame_of(const ConvolutionArgs& args, std::int64_t frame, std::int64_t size) {
    if (frame >= args.x_size.frames) return nullptr;
    if (frame >= 0) return args.x + frame * size;
    const std::int64_t earlier = args.before_frames + frame;
    return args.before == nullptr || earlier < 0 ? nullptr : args.before + earlier * size;
}

/// As FloatKernel in linear_float.h, with patches for rows of x.
template <typename Isa>
struct ConvolutionTask {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = kBlockSteps;
    // NOLINTNEXTLINE(readability-identifier-naming): what run_task() calls it
    static constexpr std::int64_t step_bytes = kColumns * 4;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        for (std::int64_t done = 0; done < count;) {
            const std::int64_t tap = (first + done) / problem.channels;
            const std::int64_t channel = (first + done) % problem.channels;
            const std::int64_t left = count - done, rest = problem.channels - channel;
            const std::int64_t part = left < rest ? left : rest;
            gather(rows, tap, {channel, part}, x + done);
            done += part;
        }
        return reinterpret_cast<const std::int32_t*>(x);
    }

    /// These channels of one tap of all rows.
    void gather(Range rows, std::int64_t tap, Range channels, float* out) const {
        const Axes& kernel = problem.kernel;
        const std::int64_t shift = problem.doubled ? 1 : 0;
        const std::int64_t width = args.x_size.width, height = args.x_size.height;
        const std::int64_t frame_size = height * width * problem.channels;
        const std::int64_t later = tap / (kernel.height * kernel.width) - args.padding.frames;
        const std::int64_t down = tap / kernel.width % kernel.height - args.padding.height;
        const std::int64_t right = tap % kernel.width - args.padding.width;
        const auto bytes = static_cast<std::size_t>(channels.count) * sizeof(float);
        Pixel at(args, rows.first);
        for (std::int64_t i = 0; i < rows.count; ++i, out += kRowSteps, at.advance()) {
            const std::int64_t line = (at.line * problem.stride.height + down) >> shift;
            const std::int64_t column = (at.column * problem.stride.width + right) >> shift;
            const float* frame = nullptr;
            if (line >= 0 && line < height && column >= 0 && column < width)
                frame = frame_of(args, at.frame * problem.stride.frames + later, frame_size);
            if (frame == nullptr) {
                __builtin_memset(out, 0, bytes);
            } else {
                __builtin_memcpy(out, frame + (line * width + column) * problem.channels + channels.first,
                                 bytes);
            }
        }
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t) const {
        return w_source(panel, first);
    }

    void multiply(std::int64_t rows, const Block& block) const { Isa::multiply_floats(rows, block); }

    /// Line by line, as y need not be contiguous.
    void finish(const Place& place, std::byte* in) const {
        auto* out = reinterpret_cast<float*>(in);
        Pixel at(args, place.row);
        for (std::int64_t done = 0; done < place.rows;) {
            const std::int64_t left = place.rows - done, rest = at.width - at.column;
            const std::int64_t part = left < rest ? left : rest;
            const std::int64_t offset = at.frame * args.y_strides.frames + at.line * args.y_strides.height +
                                        at.column * args.y_strides.width;
            float* rows = out + done * kColumns;
            if (args.add != nullptr) add_rows(args.add + offset, place.panel, part, rows);
            LinearArgs end;
            end.y = args.y + offset;
            end.y_stride = args.y_strides.width;
            end.bias = args.bias;
            Isa::finish_floats(matrix, end, {0, part, place.panel}, rows);
            done += part;
            at.column += part - 1;
            at.advance();
        }
    }

    void add_rows(const float* add, std::int64_t panel, std::int64_t rows, float* to) const {
        const std::int64_t first = panel * kColumns, left = problem.out_channels - first;
        const std::int64_t columns = left < kColumns ? left : kColumns;
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < columns; ++c)
                to[r * kColumns + c] += add[r * args.y_strides.width + first + c];
    }

    const ConvolutionProblem& problem;
    const ConvolutionArgs& args;
    const LinearProblem& matrix;
    const PackedPanels& layout;
    float* x;
    std::byte* sums;
};

/// The functions of a ConvolutionKernel row.
template <typename Isa>
struct ConvolutionRow {
    static constexpr PanelForm kForm = {Isa::kColumns, 1, 1, 4};

    static LinearProblem matrix_of(const ConvolutionProblem& problem) {
        LinearProblem matrix;
        matrix.n = problem.out_channels;
        matrix.k = problem.k();
        return matrix;
    }

    /// Scratch of one worker: rows of patches, the sums.
    struct Scratch {
        explicit Scratch(const Tiling& tiling)
            : sums(aligned_bytes(largest_rows(tiling) * kRowSteps * 4)),
              bytes(sums + sums_bytes(tiling, Isa::kColumns)) {}

        std::size_t sums;
        std::size_t bytes;
    };

    static std::size_t packed_bytes(const ConvolutionProblem& problem) {
        return PackedPanels(matrix_of(problem), kForm).bytes;
    }

    static void pack(const ConvolutionProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_panels(matrix_of(problem), kForm, weight, packed);
    }

    static std::size_t workspace_bytes(const ConvolutionProblem& problem, std::int64_t pixels) {
        const Scratch scratch(Tiling(pixels, problem.out_channels, Isa::kColumns));
        return scratch.bytes * static_cast<std::size_t>(num_threads());
    }

    static void run(const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept {
        const Tiling tiling(args.y_size.count(), problem.out_channels, Isa::kColumns);
        const Scratch scratch(tiling);
        const LinearProblem matrix = matrix_of(problem);
        const PackedPanels layout(matrix, kForm);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own = args.workspace + scratch.bytes * static_cast<std::size_t>(worker);
            ConvolutionTask<Isa> kernel = {
                problem, args, matrix, layout, reinterpret_cast<float*>(own), own + scratch.sums};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
        });
    }
};

}  // namespace
}  // namespace aerogel
