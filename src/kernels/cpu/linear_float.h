// The float linear kernels of every CPU level: panels of float weights through a float32 register kernel.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

/// `Isa` has
///   kRows, kColumns                          the register block
///   multiply_floats(rows, block)             its register kernel
///   read_row(problem, args, row, steps, out) x' of these columns as float32
///   finish_floats(problem, args, place, sums) y = sums + bias
template <typename Isa>
struct FloatKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = kBlockSteps;
    // NOLINTNEXTLINE(readability-identifier-naming): what run_task() calls it
    static constexpr std::int64_t step_bytes = kColumns * 4;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        for (std::int64_t i = 0; i < rows.count; ++i) {
            Isa::read_row(problem, args, rows.first + i, {first, count}, x + i * kRowSteps);
        }
        return reinterpret_cast<const std::int32_t*>(x);
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t) const {
        return w_source(panel, first);
    }

    void multiply(std::int64_t rows, const Block& block) const { Isa::multiply_floats(rows, block); }

    void finish(const Place& place, const std::byte* in) const {
        Isa::finish_floats(problem, args, place, reinterpret_cast<const float*>(in));
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    float* x;
    std::byte* sums;
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct FloatLinearRow {
    static constexpr PanelForm kForm = {Isa::kColumns, 1, 1, 4};

    /// Scratch of one worker: rows of x, the sums.
    struct Scratch {
        explicit Scratch(const Tiling& tiling)
            : sums(aligned_bytes(largest_rows(tiling) * kRowSteps * 4)),
              bytes(sums + sums_bytes(tiling, Isa::kColumns)) {}

        std::size_t sums;
        std::size_t bytes;
    };

    static std::size_t packed_bytes(const LinearProblem& problem) {
        return PackedPanels(problem, kForm).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_panels(problem, kForm, weight, packed);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Scratch scratch(Tiling(problem.m, problem.n, Isa::kColumns));
        return scratch.bytes * static_cast<std::size_t>(num_threads());
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const Scratch scratch(tiling);
        const PackedPanels layout(problem, kForm);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own = args.workspace + scratch.bytes * static_cast<std::size_t>(worker);
            FloatKernel<Isa> kernel = {problem, args, layout, reinterpret_cast<float*>(own),
                                       own + scratch.sums};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
        });
    }
};

}  // namespace
}  // namespace aerogel
