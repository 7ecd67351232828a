// Convolutions of 3 x 3 taps with a quarter of the products: Winograd's minimal filtering F(4x4, 3x3) (Lavin
// & Gray, Fast algorithms for convolutional neural networks, 2015). Squares of 6 x 6 pixels and the weights
// become values at 36 points, products of matrices there become 4 x 4 pixels of y. Taps in time and channels
// are summed at the points. The interpolation points are 0, 1/sqrt 2, -1/sqrt 2, sqrt 2, -sqrt 2 and
// infinity, whose rounding errors are about those of the plain sum (after Barabasz et al., Error analysis and
// improving the accuracy of Winograd convolution, 2020). Included by sources built for one CPU level, so
// everything is local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/convolution_loops.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileSide = 4, kPatchSide = 6, kPoints = kPatchSide * kPatchSide;
constexpr float kHalfRoot = 0x1.6a09e6p-1F, kRoot = 0x1.6a09e6p0F;

/// How a convolution is cut. Depends on the problem alone, never on the number of threads.
struct WinogradPlan {
    static constexpr std::int64_t kMostSteps = 128;         ///< channels of a tap that are summed at once
    static constexpr std::int64_t kGroupColumns = 192;      ///< columns of y that a task computes
    static constexpr std::int64_t kMostWeights = 16 << 20;  ///< weights at points that exist at once

    WinogradPlan(const ConvolutionProblem& problem, std::int64_t width)
        : columns(width),
          panels(ceil_div(problem.out_channels, width)),
          parts(ceil_div(problem.channels, kMostSteps)),
          steps(ceil_div(problem.channels, parts)),
          blocks(problem.kernel.frames * parts),
          slice(steps * columns),
          panel_floats(blocks * kPoints * slice),
          rounds(ceil_div(panels, most_panels(kMostWeights / panel_floats))) {}

    /// Groups of panels of a round that a task takes.
    std::int64_t groups(const Range& round) const {
        return ceil_div(round.count, most_panels(kGroupColumns / columns));
    }
    Range round_panels(std::int64_t round) const { return part_of(panels, rounds, round); }
    Range channels_of(const ConvolutionProblem& problem, std::int64_t block) const {
        const std::int64_t first = block % parts * steps, left = problem.channels - first;
        return {first, left < steps ? left : steps};
    }
    std::size_t weight_bytes() const { return aligned_bytes(ceil_div(panels, rounds) * panel_floats * 4); }

    std::int64_t columns, panels;
    std::int64_t parts, steps, blocks;
    std::int64_t slice, panel_floats;
    std::int64_t rounds;

  private:
    static constexpr std::int64_t most_panels(std::int64_t count) { return count < 1 ? 1 : count; }
};

/// Values at the six points of six pixels `d` in a row, `gap` apart.
template <typename Isa>
void to_points(const typename Isa::V* d, std::int64_t gap, typename Isa::V* to) {
    using V = typename Isa::V;
    const V d0 = d[0], d1 = d[gap], d2 = d[2 * gap], d3 = d[3 * gap], d4 = d[4 * gap], d5 = d[5 * gap];
    const V two = Isa::set1(2.0F), half = Isa::set1(0.5F), five_halves = Isa::set1(2.5F);
    const V even1 = Isa::fnma(two, d2, d4), odd1 = Isa::fnma(two, d1, d3);
    const V even2 = Isa::fnma(half, d2, d4), odd2 = Isa::fnma(half, d1, d3);
    to[0] = Isa::fnma(five_halves, d2, Isa::add(d0, d4));
    to[gap] = Isa::fma(Isa::set1(kHalfRoot), odd1, even1);
    to[2 * gap] = Isa::fnma(Isa::set1(kHalfRoot), odd1, even1);
    to[3 * gap] = Isa::fma(Isa::set1(kRoot), odd2, even2);
    to[4 * gap] = Isa::fnma(Isa::set1(kRoot), odd2, even2);
    to[5 * gap] = Isa::fnma(five_halves, d3, Isa::add(d1, d5));
}

/// The same of three taps.
template <typename Isa>
void taps_to_points(const typename Isa::V* w, std::int64_t gap, typename Isa::V* to) {
    using V = typename Isa::V;
    const V w0 = w[0], w1 = w[gap], w2 = w[2 * gap];
    const V even1 = Isa::mul(Isa::set1(-2.0F / 3.0F), Isa::fma(Isa::set1(0.5F), w2, w0));
    const V even2 = Isa::mul(Isa::set1(1.0F / 6.0F), Isa::fma(Isa::set1(2.0F), w2, w0));
    const V odd1 = Isa::mul(Isa::set1(-2.0F / 3.0F * kHalfRoot), w1);
    const V odd2 = Isa::mul(Isa::set1(kRoot / 6.0F), w1);
    to[0] = w0;
    to[gap] = Isa::add(even1, odd1);
    to[2 * gap] = Isa::sub(even1, odd1);
    to[3 * gap] = Isa::add(even2, odd2);
    to[4 * gap] = Isa::sub(even2, odd2);
    to[5 * gap] = w2;
}

/// Four pixels of y of their values at six points.
template <typename Isa>
void from_points(const typename Isa::V* m, std::int64_t gap, typename Isa::V* to, std::int64_t to_gap) {
    using V = typename Isa::V;
    const V m1 = m[gap], m2 = m[2 * gap], m3 = m[3 * gap], m4 = m[4 * gap];
    const V even1 = Isa::add(m1, m2), odd1 = Isa::sub(m1, m2);
    const V even2 = Isa::add(m3, m4), odd2 = Isa::sub(m3, m4);
    const V odd = Isa::mul(Isa::set1(kHalfRoot), odd1);
    to[0] = Isa::add(m[0], Isa::add(even1, even2));
    to[to_gap] = Isa::fma(Isa::set1(kRoot), odd2, odd);
    to[2 * to_gap] = Isa::fma(Isa::set1(2.0F), even2, Isa::mul(Isa::set1(0.5F), even1));
    to[3 * to_gap] = Isa::fma(Isa::set1(2.0F * kRoot), odd2, Isa::fma(Isa::set1(0.5F), odd, m[5 * gap]));
}

/// The weights of one panel and one block, as convolution_loops.h packs them, at all points.
template <typename Isa>
void weights_to_points(const ConvolutionProblem& problem, const WinogradPlan& plan, const float* panel,
                       std::int64_t block, float* to, std::int64_t point_gap) {
    using V = typename Isa::V;
    const Range channels = plan.channels_of(problem, block);
    const std::int64_t tap_gap = problem.channels * plan.columns;
    const float* from = panel + block / plan.parts * 9 * tap_gap + channels.first * plan.columns;
    for (std::int64_t i = 0; i < channels.count * plan.columns; i += Isa::kLanes) {
        V taps[9], lines[18], points[kPoints];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) taps[tap] = Isa::load(from + tap * tap_gap + i);
#pragma GCC unroll 3
        for (int column = 0; column < 3; ++column) taps_to_points<Isa>(taps + column, 3, lines + column);
#pragma GCC unroll 6
        for (int line = 0; line < 6; ++line) taps_to_points<Isa>(lines + 3 * line, 1, points + 6 * line);
#pragma GCC unroll 36
        for (int point = 0; point < kPoints; ++point) Isa::store(to + point * point_gap + i, points[point]);
    }
}

/// A square of 4 x 4 pixels of y; counts on in the order of rows.
struct SquareTile {
    SquareTile(const Axes& y_size, std::int64_t number)
        : lines(ceil_div(y_size.height, kTileSide)),
          columns(ceil_div(y_size.width, kTileSide)),
          frame(number / (lines * columns)),
          line(number / columns % lines),
          column(number % columns) {}

    static std::int64_t count(const Axes& y_size) {
        return y_size.frames * ceil_div(y_size.height, kTileSide) * ceil_div(y_size.width, kTileSide);
    }

    std::int64_t lines, columns;
    std::int64_t frame, line, column;
};

/// Some tiles of y and some panels of its columns. `Floats` is the register kernel (linear_tile.h), `Isa` the
/// vectors (vector.h).
template <typename Isa, typename Floats>
struct WinogradTask {
    using V = typename Isa::V;
    static constexpr std::int64_t kColumns = Floats::kColumns;
    static constexpr std::int64_t kTiles = Floats::kRows * 4;

    /// Scratch of one worker: patches and sums at the points, zeros.
    static constexpr std::size_t kPatchBytes = aligned_bytes(kPoints * kTiles * kRowSteps * 4);
    static constexpr std::size_t kZeroBytes = aligned_bytes(WinogradPlan::kMostSteps * 4);
    static std::size_t scratch_bytes() {
        return kPatchBytes + aligned_bytes(kPoints * kTiles * WinogradPlan::kGroupColumns * 4) + kZeroBytes;
    }

    void run(const Range& tiles) const {
        bool first = true;
        for (std::int64_t block = 0; block < plan.blocks; ++block) {
            const bool needed = first && block + 1 == plan.blocks;
            if (!gather(tiles, block) && !needed) continue;
            multiply(tiles.count, block, first);
            first = false;
        }
        for (std::int64_t i = 0; i < tiles.count; ++i)
            for (std::int64_t p = 0; p < panels.count; ++p)
                finish(SquareTile(args.y_size, tiles.first + i), i, p);
    }

    /// The channels of a block of all tiles. False where all are zeros.
    bool gather(const Range& tiles, std::int64_t block) const {
        const std::int64_t line_size = args.x_size.width * problem.channels;
        const Range channels = plan.channels_of(problem, block);
        bool any = false;
        for (std::int64_t i = 0; i < tiles.count; ++i) {
            const SquareTile tile(args.y_size, tiles.first + i);
            const std::int64_t frame =
                tile.frame * problem.stride.frames + block / plan.parts - args.padding.frames;
            const float* x = frame_of(args, frame, args.x_size.height * line_size);
            const float* pixels[kPoints];
            any = any || x != nullptr;
            find_pixels(tile, x, channels.first, pixels);
            patch_to_points(pixels, channels.count, patches + i * kRowSteps);
        }
        return any;
    }

    void find_pixels(const SquareTile& tile, const float* x, std::int64_t channel, const float** to) const {
        const std::int64_t shift = problem.doubled ? 1 : 0, channels = problem.channels;
        const std::int64_t height = args.x_size.height << shift, width = args.x_size.width << shift;
        for (std::int64_t i = 0; i < kPatchSide; ++i) {
            const std::int64_t line = tile.line * kTileSide + i - args.padding.height;
            const bool inside = x != nullptr && line >= 0 && line < height;
            for (std::int64_t j = 0; j < kPatchSide; ++j) {
                const std::int64_t column = tile.column * kTileSide + j - args.padding.width;
                const bool there = inside && column >= 0 && column < width;
                const std::int64_t place = (line >> shift) * args.x_size.width + (column >> shift);
                to[i * kPatchSide + j] = there ? x + place * channels + channel : zeros;
            }
        }
    }

    static void patch_to_points(const float* const* pixels, std::int64_t channels, float* to) {
        for (std::int64_t c = 0; c < channels; c += Isa::kLanes) {
            const std::int64_t left = channels - c, lanes = left < Isa::kLanes ? left : Isa::kLanes;
            V patch[kPoints];
#pragma GCC unroll 6
            for (int j = 0; j < kPatchSide; ++j) {
                V line[kPatchSide];
#pragma GCC unroll 6
                for (int i = 0; i < kPatchSide; ++i)
                    line[i] = Isa::load_part(pixels[i * kPatchSide + j] + c, lanes);
                V points[kPatchSide];
                to_points<Isa>(line, 1, points);
#pragma GCC unroll 6
                for (int i = 0; i < kPatchSide; ++i) patch[i * kPatchSide + j] = points[i];
            }
#pragma GCC unroll 6
            for (int i = 0; i < kPatchSide; ++i) {
                V points[kPatchSide];
                to_points<Isa>(patch + i * kPatchSide, 1, points);
#pragma GCC unroll 6
                for (int j = 0; j < kPatchSide; ++j)
                    Isa::store(to + (i * kPatchSide + j) * kTiles * kRowSteps + c, points[j]);
            }
        }
    }

    void multiply(std::int64_t tiles, std::int64_t block, bool first) const {
        const std::int64_t steps = plan.channels_of(problem, block).count;
        const std::int64_t row_blocks = ceil_div(tiles, Floats::kRows);
        const std::int64_t portions = ceil_div(steps, Prefetch::kSteps);
        const float* w = weights + block * kPoints * panels.count * plan.slice;
        Prefetch ahead;
        ahead.lines = ceil_div(plan.slice, 16 * row_blocks * portions);
        for (std::int64_t point = 0; point < kPoints; ++point) {
            for (std::int64_t p = 0; p < panels.count; ++p, w += plan.slice) {
                ahead.from = reinterpret_cast<const std::byte*>(w + plan.slice);
                for (std::int64_t b = 0; b < row_blocks; ++b, ahead.from += portions * ahead.lines * 64) {
                    const Range rows = part_of(tiles, row_blocks, b);
                    const float* x = patches + (point * kTiles + rows.first) * kRowSteps;
                    float* out = sums + ((point * panels.count + p) * kTiles + rows.first) * kColumns;
                    Floats::multiply_floats(
                        rows.count, {reinterpret_cast<const std::int32_t*>(x), w, out, steps, first, ahead});
                }
            }
        }
    }

    void finish(const SquareTile& tile, std::int64_t row, std::int64_t p) const {
        const std::int64_t gap = panels.count * kTiles * kColumns, first = (panels.first + p) * kColumns;
        const float* from = sums + (p * kTiles + row) * kColumns;
        for (std::int64_t c = 0; c < kColumns && first + c < problem.out_channels; c += Isa::kLanes) {
            const std::int64_t left = problem.out_channels - first - c;
            V lines[kTileSide * kPatchSide], pixels[kTileSide * kTileSide];
#pragma GCC unroll 6
            for (int j = 0; j < kPatchSide; ++j) {
                V points[kPatchSide];
#pragma GCC unroll 6
                for (int i = 0; i < kPatchSide; ++i)
                    points[i] = Isa::load(from + (i * kPatchSide + j) * gap + c);
                from_points<Isa>(points, 1, lines + j, kPatchSide);
            }
#pragma GCC unroll 4
            for (int i = 0; i < kTileSide; ++i)
                from_points<Isa>(lines + i * kPatchSide, 1, pixels + i * kTileSide, 1);
            write(tile, first + c, left < Isa::kLanes ? left : Isa::kLanes, pixels);
        }
    }

    void write(const SquareTile& tile, std::int64_t channel, std::int64_t lanes, const V* pixels) const {
        const V bias = args.bias == nullptr ? Isa::zero() : Isa::load_part(args.bias + channel, lanes);
        for (std::int64_t i = 0; i < kTileSide; ++i) {
            const std::int64_t line = tile.line * kTileSide + i;
            if (line >= args.y_size.height) return;
            for (std::int64_t j = 0; j < kTileSide; ++j) {
                const std::int64_t column = tile.column * kTileSide + j;
                if (column >= args.y_size.width) break;
                const std::int64_t at = tile.frame * args.y_strides.frames + line * args.y_strides.height +
                                        column * args.y_strides.width + channel;
                V value = Isa::add(pixels[i * kTileSide + j], bias);
                if (args.add != nullptr) value = Isa::add(value, Isa::load_part(args.add + at, lanes));
                Isa::store_part(args.y + at, lanes, value);
            }
        }
    }

    const ConvolutionProblem& problem;
    const ConvolutionArgs& args;
    const WinogradPlan& plan;
    Range panels;          ///< of y
    const float* weights;  ///< at the points: [block][point][panel][step][column]
    float* patches;        ///< [point][tile][kRowSteps]
    float* sums;           ///< [point][panel][tile][column]
    const float* zeros;
};

/// The functions of a ConvolutionKernel row. Weights are packed as for the kernels of convolution_loops.h and
/// brought to the points in every call, as there they are four times as large. Small pictures are not worth
/// that: their sums are the plain ones, however many frames a call has, so that chunks change nothing.
template <typename Isa, typename Floats>
struct WinogradRow {
    using Task = WinogradTask<Isa, Floats>;
    using Plain = ConvolutionRow<Floats>;
    static constexpr std::int64_t kLeastPixels = 20 * kTileSide * kTileSide;  ///< of a frame of y

    static std::size_t workspace_bytes(const ConvolutionProblem& problem, std::int64_t pixels) {
        const std::size_t plain = Plain::workspace_bytes(problem, pixels);
        if (pixels < kLeastPixels) return plain;
        const std::size_t winograd = WinogradPlan(problem, Floats::kColumns).weight_bytes() +
                                     Task::scratch_bytes() * static_cast<std::size_t>(num_threads());
        return winograd < plain ? plain : winograd;
    }

    static void run(const ConvolutionProblem& problem, const ConvolutionArgs& args) noexcept {
        if (args.y_size.height * args.y_size.width < kLeastPixels) return Plain::run(problem, args);
        const WinogradPlan plan(problem, Floats::kColumns);
        for (std::int64_t round = 0; round < plan.rounds; ++round) {
            const Range panels = plan.round_panels(round);
            transform_weights(problem, args, plan, panels);
            run_round(problem, args, plan, panels);
        }
    }

    static void transform_weights(const ConvolutionProblem& problem, const ConvolutionArgs& args,
                                  const WinogradPlan& plan, const Range& panels) {
        const PackedPanels layout(Plain::matrix_of(problem), Plain::kForm);
        const std::int64_t groups = plan.groups(panels);
        parallel_for(groups * plan.blocks, [&](std::int64_t task, int) {
            const Range group = part_of(panels.count, groups, task / plan.blocks);
            const std::int64_t block = task % plan.blocks;
            for (std::int64_t p = 0; p < group.count; ++p) {
                const std::int64_t panel = panels.first + group.first + p;
                const auto* from = reinterpret_cast<const float*>(
                    args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes);
                float* to = reinterpret_cast<float*>(args.workspace) + group.first * plan.panel_floats +
                            (block * kPoints * group.count + p) * plan.slice;
                weights_to_points<Isa>(problem, plan, from, block, to, group.count * plan.slice);
            }
        });
    }

    static void run_round(const ConvolutionProblem& problem, const ConvolutionArgs& args,
                          const WinogradPlan& plan, const Range& panels) {
        const std::int64_t tiles = SquareTile::count(args.y_size), parts = ceil_div(tiles, Task::kTiles);
        const std::int64_t groups = plan.groups(panels);
        parallel_for(groups * parts, [&](std::int64_t task, int worker) {
            const Range group = part_of(panels.count, groups, task / parts);
            std::byte* own = args.workspace + plan.weight_bytes() +
                             Task::scratch_bytes() * static_cast<std::size_t>(worker);
            auto* zeros = reinterpret_cast<float*>(own + Task::scratch_bytes() - Task::kZeroBytes);
            __builtin_memset(zeros, 0, Task::kZeroBytes);
            const auto* weights = reinterpret_cast<const float*>(args.workspace);
            const Task tile_task = {problem,
                                    args,
                                    plan,
                                    {panels.first + group.first, group.count},
                                    weights + group.first * plan.panel_floats,
                                    reinterpret_cast<float*>(own),
                                    reinterpret_cast<float*>(own + Task::kPatchBytes),
                                    zeros};
            tile_task.run(part_of(tiles, parts, task % parts));
        });
    }
};

}  // namespace
}  // namespace aerogel
