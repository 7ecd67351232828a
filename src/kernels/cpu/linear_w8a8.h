// W8A8 of every CPU level: x is quantized once, in parallel, into the workspace; then the tasks multiply
// integers and finish y in float32, in the order that kernels/linear.h spells out.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

/// Quantized x in the workspace: [blocks of k][m][kRowSteps] steps, then s_t [m].
struct QuantizedRows {
    QuantizedRows(std::int64_t m, std::int64_t steps)
        : rows(m),
          scale_at(static_cast<std::size_t>(ceil_div(steps, kBlockSteps) * m * kRowSteps) * 4),
          bytes(scale_at + aligned_bytes(m * 4)) {}

    std::int32_t* row(std::byte* workspace, std::int64_t i, std::int64_t block) const {
        return reinterpret_cast<std::int32_t*>(workspace) + (block * rows + i) * kRowSteps;
    }
    float* scale(std::byte* workspace) const { return reinterpret_cast<float*>(workspace + scale_at); }

    std::int64_t rows;
    std::size_t scale_at;
    std::size_t bytes;
};

/// What the epilogue of a block needs: s_t of its rows among others.
struct Finish {
    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    const float* s_t;
};

/// `Isa`, made anew for every task, has
///   kRows, kColumns                      the register block
///   kSteps                               steps per block of k
///   kForm                                the panels it wants
///   kWidened                             widen(values, steps, out) comes before multiply
///   multiply_integers(rows, block)       its register kernel
///   quantize_row(problem, args, rows, i) row i of x into the workspace, with its s_t
///   finish_integers(finish, place, sums) y of a block
template <typename Isa>
struct IntegerKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = Isa::kSteps;
    // NOLINTNEXTLINE(readability-identifier-naming): the float kernel has it as a member
    static constexpr std::int64_t step_bytes = kColumns * Isa::kForm.values;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        return x.row(args.workspace, rows.first, first / kBlockSteps) + first % kBlockSteps;
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) const {
        if constexpr (Isa::kWidened) {
            Isa::widen(w_source(panel, first), count, widened);
            return widened;
        }
        return w_source(panel, first);
    }

    void multiply(std::int64_t rows, const Block& block) { isa.multiply_integers(rows, block); }

    void finish(const Place& place, const std::byte* in) const {
        Isa::finish_integers({problem, args, layout, x.scale(args.workspace) + place.row}, place,
                             reinterpret_cast<const std::int32_t*>(in));
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    const QuantizedRows& x;
    std::byte* sums;
    std::byte* widened;
    Isa isa = {};
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct W8A8LinearRow {
    /// Quantized x, then the scratch of every worker: sums, one widened block of weights.
    struct Workspace {
        Workspace(const LinearProblem& problem, const Tiling& tiling, std::int64_t steps)
            : x(problem.m, steps),
              widened(sums_bytes(tiling, Isa::kColumns)),
              worker(widened + (Isa::kWidened ? aligned_bytes(Isa::kSteps * Isa::kColumns * 4) : 0)) {}

        QuantizedRows x;
        std::size_t widened;
        std::size_t worker;
    };

    static std::size_t packed_bytes(const LinearProblem& problem) {
        return PackedPanels(problem, Isa::kForm).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_panels(problem, Isa::kForm, weight, packed);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const Workspace workspace(problem, tiling, PackedPanels(problem, Isa::kForm).steps);
        return workspace.x.bytes + workspace.worker * static_cast<std::size_t>(num_threads());
    }

    static void quantize(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows) {
        constexpr std::int64_t kRowsPerTask = 8;
        parallel_for(ceil_div(problem.m, kRowsPerTask), [&](std::int64_t task, int) {
            for (std::int64_t i = task * kRowsPerTask; i < (task + 1) * kRowsPerTask && i < problem.m; ++i) {
                Isa::quantize_row(problem, args, rows, i);
            }
        });
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const PackedPanels layout(problem, Isa::kForm);
        const Workspace workspace(problem, tiling, layout.steps);
        quantize(problem, args, workspace.x);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own =
                args.workspace + workspace.x.bytes + workspace.worker * static_cast<std::size_t>(worker);
            IntegerKernel<Isa> kernel = {problem, args, layout, workspace.x, own, own + workspace.widened,
                                         {}};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
        });
    }
};

}  // namespace
}  // namespace aerogel
