// The float linear kernels of every CPU level: float weights from panels as they are, int8 weights decoded
// to float panels block by block (W8A16), so that both run one float32 register kernel.
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
///   decode(scales, values, steps, out)       (value - offset) * scale of one panel
///   finish_floats(problem, args, place, sums) y = sums + bias
template <typename Isa>
struct FloatKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        for (std::int64_t i = 0; i < rows.count; ++i) {
            Isa::read_row(problem, args, rows.first + i, {first, count}, x + i * kRowSteps);
        }
        return reinterpret_cast<const std::int32_t*>(x);
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) const {
        if (problem.weight != Format::int8) return w_source(panel, first);
        const std::int64_t width = problem.group_size == 0 ? problem.k : problem.group_size;
        for (std::int64_t step = first; step < first + count;) {
            const std::int64_t group = step / width;
            const std::int64_t group_end = (group + 1) * width;
            const std::int64_t end = group_end < first + count ? group_end : first + count;
            const std::int64_t at = (panel * layout.groups + group) * kColumns;
            const float* offset = problem.weight_offset ? array(layout.offset) + at : nullptr;
            Isa::decode({array(layout.scale) + at, offset}, w_source(panel, step), end - step,
                        weights + (step - first) * kColumns);
            step = end;
        }
        return weights;
    }

    void multiply(std::int64_t rows, const Block& block) const { Isa::multiply_floats(rows, block); }

    void finish(const Place& place, const std::byte* in) const {
        Isa::finish_floats(problem, args, place, reinterpret_cast<const float*>(in));
    }

    const float* array(std::size_t at) const { return reinterpret_cast<const float*>(args.packed + at); }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    float* x;
    float* weights;
    std::byte* sums;
    std::int64_t step_bytes;
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct FloatLinearRow {
    /// Scratch of one worker: rows of x, one decoded block of weights, the sums.
    struct Scratch {
        explicit Scratch(const Tiling& tiling)
            : weights(aligned_bytes(largest_rows(tiling) * kRowSteps * 4)),
              sums(weights + aligned_bytes(kBlockSteps * Isa::kColumns * 4)),
              bytes(sums + sums_bytes(tiling, Isa::kColumns)) {}

        std::size_t weights;
        std::size_t sums;
        std::size_t bytes;
    };

    static PanelForm form(const LinearProblem& problem) {
        return {Isa::kColumns, 1, 1, problem.weight == Format::int8 ? 1 : 4};
    }

    static std::size_t packed_bytes(const LinearProblem& problem) {
        return PackedPanels(problem, form(problem)).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_panels(problem, form(problem), weight, packed);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Scratch scratch(Tiling(problem.m, problem.n, Isa::kColumns));
        return scratch.bytes * static_cast<std::size_t>(num_threads());
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const Scratch scratch(tiling);
        const PackedPanels layout(problem, form(problem));
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own = args.workspace + scratch.bytes * static_cast<std::size_t>(worker);
            FloatKernel<Isa> kernel = {problem,
                                       args,
                                       layout,
                                       reinterpret_cast<float*>(own),
                                       reinterpret_cast<float*>(own + scratch.weights),
                                       own + scratch.sums,
                                       Isa::kColumns * form(problem).value_size};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
        });
    }
};

}  // namespace
}  // namespace aerogel
