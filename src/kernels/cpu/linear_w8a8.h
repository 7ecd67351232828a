// W8A8 of every CPU level: x is quantized once, in parallel, into the workspace; then the tasks multiply
// integers and finish y in float32, in the order that kernels/linear.h spells out.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

/// Quantized x in the workspace: [blocks of k][m][kRowSteps] integers of four bytes, then s_t [m] and what is
/// added to all sums of a row, [m].
struct QuantizedRows {
    QuantizedRows(std::int64_t m, std::int64_t integers)
        : rows(m),
          scale_at(static_cast<std::size_t>(ceil_div(integers, kBlockSteps) * m * kRowSteps) * 4),
          excess_at(scale_at + aligned_bytes(m * 4)),
          bytes(excess_at + aligned_bytes(m * 4)) {}

    std::int32_t* row(std::byte* workspace, std::int64_t i, std::int64_t block) const {
        return reinterpret_cast<std::int32_t*>(workspace) + (block * rows + i) * kRowSteps;
    }
    float* scale(std::byte* workspace) const { return reinterpret_cast<float*>(workspace + scale_at); }
    std::int32_t* excess(std::byte* workspace) const {
        return reinterpret_cast<std::int32_t*>(workspace + excess_at);
    }

    std::int64_t rows;
    std::size_t scale_at;
    std::size_t excess_at;
    std::size_t bytes;
};

/// Calls quantize(i, worker) for every row, some at a time.
template <typename Quantize>
void quantize_rows(std::int64_t rows, const Quantize& quantize) {
    constexpr std::int64_t kRowsPerTask = 8;
    parallel_for(ceil_div(rows, kRowsPerTask), [&](std::int64_t task, int worker) {
        for (std::int64_t i = task * kRowsPerTask; i < (task + 1) * kRowsPerTask && i < rows; ++i)
            quantize(i, worker);
    });
}

/// Floats of a rotated row, one of each worker. None where rows are not rotated.
inline std::size_t rotated_row_bytes(const LinearProblem& problem) {
    return problem.rotated ? aligned_bytes(problem.k * 4) : 0;
}

/// Calls quantize(problem, args, i) for every row i of x; where rows are rotated first, for the row that
/// Isa::rotate_row(problem, args, i, out) puts into the worker's floats, while it is in the first cache.
template <typename Isa, typename Quantize>
void quantize_or_rotate_rows(const LinearProblem& problem, const LinearArgs& args, std::byte* scratch,
                             const Quantize& quantize) {
    if (!problem.rotated)
        return quantize_rows(problem.m, [&](std::int64_t i, int) { quantize(problem, args, i); });
    LinearProblem of_row = problem;
    of_row.x = DType::f32;
    quantize_rows(problem.m, [&](std::int64_t i, int worker) {
        auto* row =
            reinterpret_cast<float*>(scratch + rotated_row_bytes(problem) * static_cast<std::size_t>(worker));
        Isa::rotate_row(problem, args, i, row);
        LinearArgs rotated = args;
        rotated.x = row;
        rotated.x_stride = 0;
        rotated.mul_scale = nullptr;
        quantize(of_row, rotated, i);
    });
}

/// What the epilogue of a block needs: s_t of its rows among others.
struct Finish {
    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    const float* s_t;
    const std::int32_t* excess;
};

/// `Isa`, made anew for every task, has
///   kRows, kColumns                      the register block
///   kSteps                               steps per block of k
///   kIntegers                            integers of four bytes that stand for a step of x
///   kForm                                the panels it wants
///   multiply_integers(rows, block)       its register kernel
///   quantize_row(problem, args, rows, i) row i of x into the workspace, with its s_t
///   rotate_row(problem, args, i, out)    row i of x rotated, as floats
///   finish_integers(finish, place, sums) y of a block
/// and may have
///   kTask                                the size of a task
///   kFinishesLate, kExpectsInput         as run_task() says
template <typename Isa>
constexpr TaskSize task_size() {
    if constexpr (requires { Isa::kTask; }) {
        return Isa::kTask;
    } else {
        return {};
    }
}

template <typename Isa>
struct IntegerKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = Isa::kSteps;
    static constexpr bool kFinishesLate = FinishesLate<Isa>;
    static constexpr bool kExpectsInput = requires { requires Isa::kExpectsInput; };
    // NOLINTNEXTLINE(readability-identifier-naming): the float kernel has it as a member
    static constexpr std::int64_t step_bytes = kColumns * Isa::kForm.values;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        const std::int64_t at = first * Isa::kIntegers;
        return x.row(args.workspace, rows.first, at / kBlockSteps) + at % kBlockSteps;
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t) const {
        return w_source(panel, first);
    }

    [[gnu::always_inline]] void expect_output(const Place& place) const {
        const std::int64_t column = place.panel * kColumns, size = problem.y == DType::f32 ? 4 : 2;
        const std::int64_t left = problem.n - column, bytes = (left < kColumns ? left : kColumns) * size;
        for (std::int64_t r = place.row; r < place.row + place.rows; ++r)
            prefetch_bytes(static_cast<const std::byte*>(args.y) + (r * args.y_stride + column) * size,
                           bytes);
    }

    void multiply(std::int64_t rows, const Block& block) { isa.multiply_integers(rows, block); }

    void finish(const Place& place, const std::byte* in) const {
        const Finish finish = {problem, args, layout, x.scale(args.workspace) + place.row,
                               x.excess(args.workspace) + place.row};
        Isa::finish_integers(finish, place, reinterpret_cast<const std::int32_t*>(in));
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    const QuantizedRows& x;
    std::byte* sums;
    Isa isa = {};
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct W8A8LinearRow {
    static QuantizedRows rows_of(const LinearProblem& problem) {
        return {problem.m, PackedPanels(problem, Isa::kForm).steps * Isa::kIntegers};
    }

    static std::size_t packed_bytes(const LinearProblem& problem) {
        return PackedPanels(problem, Isa::kForm).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_panels(problem, Isa::kForm, weight, packed);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns, task_size<Isa>());
        return rows_of(problem).bytes + (sums_bytes(tiling, Isa::kColumns) + rotated_row_bytes(problem)) *
                                            static_cast<std::size_t>(num_threads());
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns, task_size<Isa>());
        const PackedPanels layout(problem, Isa::kForm);
        const QuantizedRows x = rows_of(problem);
        const std::size_t sums = sums_bytes(tiling, Isa::kColumns);
        std::byte* const scratch = args.workspace + x.bytes + sums * static_cast<std::size_t>(num_threads());
        quantize_or_rotate_rows<Isa>(problem, args, scratch,
                                     [&](const LinearProblem& of_row, const LinearArgs& row, std::int64_t i) {
                                         Isa::quantize_row(of_row, row, x, i);
                                     });
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own = args.workspace + x.bytes + sums * static_cast<std::size_t>(worker);
            IntegerKernel<Isa> kernel = {problem, args, layout, x, own, {}};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
        });
    }
};

}  // namespace
}  // namespace aerogel
