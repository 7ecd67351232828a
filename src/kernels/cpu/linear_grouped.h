// Integer schemes with weight scales per group of columns (W8A8_DYNAMIC, W4A8, W4A4_DYNAMIC with groups). The
// products of a group sum exactly in float32, so the float32 register kernel computes them group by group;
// then scales and sums follow in the order that kernels/linear.h spells out, and y is the reference's to the
// bit. Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "kernels/cpu/linear_dequantize.h"

namespace aerogel {
namespace {

/// What run_task() needs. `Isa` is that of linear_dequantize.h.
template <typename Isa, typename Chunk>
struct GroupedKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = kBlockSteps;
    // NOLINTNEXTLINE(readability-identifier-naming): what run_task() calls it
    static constexpr std::int64_t step_bytes = kColumns * 4 / Chunk::kSteps;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        return reinterpret_cast<const std::int32_t*>(
            call.x.row(call.args.workspace, rows.first, first / kBlockSteps));
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return CodePanel{call.layout, call.args.packed, panel}.chunk(first / call.layout.width, 0);
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) {
        const std::int64_t group = panel * call.layout.groups + first / call.layout.width;
        scale = reinterpret_cast<const float*>(call.args.packed + call.layout.scale) + group * kColumns;
        unpack_panel<Isa, Chunk>({call.layout, call.args.packed, panel, false}, {first, count}, weights);
        return weights;
    }

    void multiply(std::int64_t rows, const Block& block) const {
        alignas(64) float part[kRows * kColumns];
        const std::int64_t width = call.layout.width;
        for (std::int64_t step = 0; step < block.steps; step += width) {
            const float* w = static_cast<const float*>(block.w) + step * kColumns;
            Isa::multiply_floats(
                rows, {block.x + step, w, part, width, true, step == 0 ? block.ahead : Prefetch{}});
            const float* scales = scale + step / width * kColumns;
            auto* total = static_cast<float*>(block.sums);
            for (std::int64_t at = 0; at < rows * kColumns; at += Isa::kLanes) {
                const auto scaled = Isa::mul(Isa::load(part + at), Isa::load(scales + at % kColumns));
                const auto before = block.first && step == 0 ? Isa::zero() : Isa::load(total + at);
                Isa::store(total + at, Isa::add(before, scaled));
            }
        }
    }

    void finish(Place place, std::byte* in) const {
        auto* y = reinterpret_cast<float*>(in);
        for (std::int64_t at = 0; at < place.rows * kColumns; at += Isa::kLanes) {
            const float s = s_t[place.row + at / kColumns];
            Isa::store(y + at, Isa::mul(Isa::load(y + at), Isa::set1(s)));
        }
        place.row += call.first_row;
        Isa::finish_floats(call.problem, call.args, place, y);
    }

    const DequantizeCall& call;
    const float* s_t;  ///< of the rows in the workspace
    float* weights;
    std::byte* sums;
    const float* scale = nullptr;  ///< of the block at hand
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct GroupedRow {
    /// Rows of x, their s_t, then the scratch of every worker: a block of weights, sums.
    struct Workspace {
        explicit Workspace(const LinearProblem& problem)
            : parts(ceil_div(problem.m, kMostRows)),
              rows(ceil_div(problem.m, parts)),
              scales(FloatRows(rows, problem.k, kBlockSteps).bytes),
              workers(scales + aligned_bytes(rows * 4)),
              sums(aligned_bytes((kBlockSteps + kMargin) * Isa::kColumns * 4)),
              worker(sums + sums_bytes(Tiling(rows, problem.n, Isa::kColumns), Isa::kColumns)) {}

        std::int64_t parts;
        std::int64_t rows;
        std::size_t scales;
        std::size_t workers;
        std::size_t sums;
        std::size_t worker;
    };

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Workspace workspace(problem);
        return workspace.workers + workspace.worker * static_cast<std::size_t>(num_threads());
    }

    static void quantize(const DequantizeCall& call, float* s_t) {
        constexpr std::int64_t kRowsPerTask = 8;
        parallel_for(ceil_div(call.x.rows, kRowsPerTask), [&](std::int64_t task, int) {
            const std::int64_t end = (task + 1) * kRowsPerTask;
            for (std::int64_t i = task * kRowsPerTask; i < end && i < call.x.rows; ++i) {
                const ActivationRow<Isa> row(call.x, call.args.workspace, i);
                row.read(call.problem, call.args, call.first_row + i);
                s_t[i] = row.quantize_integers(call.problem);
            }
        });
    }

    template <typename Chunk>
    static void multiply(const DequantizeCall& call, const Workspace& workspace, const float* s_t) {
        const Tiling tiling(call.x.rows, call.problem.n, Isa::kColumns);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own =
                call.args.workspace + workspace.workers + workspace.worker * static_cast<std::size_t>(worker);
            GroupedKernel<Isa, Chunk> kernel = {call, s_t, reinterpret_cast<float*>(own),
                                                own + workspace.sums};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), call.problem.k);
        });
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Workspace workspace(problem);
        const CodePanels layout(problem, Isa::kColumns);
        auto* s_t = reinterpret_cast<float*>(args.workspace + workspace.scales);
        for (std::int64_t i = 0; i < workspace.parts; ++i) {
            const Range part = part_of(problem.m, workspace.parts, i);
            const FloatRows x(part.count, problem.k, kBlockSteps);
            const DequantizeCall call = {problem, args, layout, x, part.first};
            quantize(call, s_t);
            if (layout.code == Code::int8) {
                multiply<Bytes<Isa, true>>(call, workspace, s_t);
            } else {
                multiply<Nibbles<Isa, Extra::offset>>(call, workspace, s_t);
            }
        }
    }
};

}  // namespace
}  // namespace aerogel
