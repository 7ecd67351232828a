// Linear layers whose quantized weights are multiplied as floats: weight-only schemes and those with fp8 and
// MX activations. The weights stay codes in memory. Up to kFewRows rows of x meet them in registers, where
// only the bytes of the weights count; with more rows, blocks of a panel are unpacked into the first cache
// and run through the float32 register kernel. Included by sources built for one CPU level, so everything is
// local to the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/activation_rows.h"
#include "kernels/cpu/linear_codes.h"
#include "kernels/cpu/linear_driver.h"
#include "kernels/cpu/linear_unpack.h"

namespace aerogel {
namespace {

constexpr std::int64_t kFewRows = 4;
/// Rows of x that are prepared at a time: it bounds the workspace.
constexpr std::int64_t kMostRows = 4 * Tiling::kTileRows;
constexpr std::int64_t kMargin = 8;  ///< rows that unpack_panel() may write on either side

/// One call, for the rows of x in the workspace. `Isa` is that of activation_rows.h, linear_unpack.h and, but
/// for decode(), of linear_float.h.
struct DequantizeCall {
    const LinearProblem& problem;
    const LinearArgs& args;
    const CodePanels& layout;
    const FloatRows& x;
    std::int64_t first_row;
};

/// What run_task() needs.
template <typename Isa, typename Chunk>
struct DequantizeKernel {
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = kBlockSteps;
    // NOLINTNEXTLINE(readability-identifier-naming): the float kernel has it as a member
    static constexpr std::int64_t step_bytes = kColumns * 4 / Chunk::kSteps;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        return reinterpret_cast<const std::int32_t*>(
            call.x.row(call.args.workspace, rows.first, first / kBlockSteps));
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        const std::int64_t group = first / call.layout.width;
        return CodePanel{call.layout, call.args.packed, panel}.chunk(
            group, (first - group * call.layout.width) / Chunk::kSteps);
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) const {
        float* out = weights + kMargin * kColumns;
        unpack_panel<Isa, Chunk>({call.layout, call.args.packed, panel}, {first, count}, out);
        return out;
    }

    void multiply(std::int64_t rows, const Block& block) const { Isa::multiply_floats(rows, block); }

    void finish(Place place, const std::byte* in) const {
        place.row += call.first_row;
        Isa::finish_floats(call.problem, call.args, place, reinterpret_cast<const float*>(in));
    }

    const DequantizeCall& call;
    float* weights;
    std::byte* sums;
};

/// multiply_panel() for `rows` rows.
template <typename Isa, typename Chunk, int kRows = static_cast<int>(kFewRows)>
void multiply_few_rows(std::int64_t rows, const CodePanel& panel, const FewRows& x, float* out) {
    if constexpr (kRows > 0) {
        if (rows == kRows) {
            multiply_panel<Isa, Chunk, kRows>(panel, x, out);
        } else {
            multiply_few_rows<Isa, Chunk, kRows - 1>(rows, panel, x, out);
        }
    }
}

template <typename Isa, typename Chunk>
void run_few_rows(const DequantizeCall& call, Range panels) {
    alignas(64) float sums[kFewRows * Isa::kColumns];
    const FewRows x = {call.x.row(call.args.workspace, 0, 0), call.x.stride, call.problem.k};
    for (std::int64_t p = panels.first; p < panels.first + panels.count; ++p) {
        multiply_few_rows<Isa, Chunk>(call.x.rows, {call.layout, call.args.packed, p}, x, sums);
        Isa::finish_floats(call.problem, call.args, {call.first_row, call.x.rows, p}, sums);
    }
}

/// The functions of a LinearKernel row.
template <typename Isa>
struct DequantizeRow {
    /// How many rows at a time, and where things lie in the workspace: rows of x, then the scratch of every
    /// worker: a block of weights, sums.
    struct Workspace {
        explicit Workspace(const LinearProblem& problem)
            : parts(ceil_div(problem.m, kMostRows)),
              rows(ceil_div(problem.m, parts)),
              few(problem.m <= kFewRows),
              x(rows, problem.k, few ? ceil_div(problem.k, 32) * 32 : kBlockSteps),
              sums(aligned_bytes((kBlockSteps + 2 * kMargin) * Isa::kColumns * 4)),
              worker(few ? 0 : sums + sums_bytes(Tiling(rows, problem.n, Isa::kColumns), Isa::kColumns)) {}

        std::int64_t parts;
        std::int64_t rows;  ///< of the largest part
        bool few;
        FloatRows x;
        std::size_t sums;
        std::size_t worker;
    };

    static std::size_t packed_bytes(const LinearProblem& problem) {
        return CodePanels(problem, Isa::kColumns).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_codes(problem, Isa::kColumns, weight, packed);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Workspace workspace(problem);
        return workspace.x.bytes + workspace.worker * static_cast<std::size_t>(num_threads());
    }

    template <typename Chunk>
    static void multiply(const DequantizeCall& call, const Workspace& workspace) {
        const Tiling tiling(call.x.rows, call.problem.n, Isa::kColumns);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            if (workspace.few) return run_few_rows<Isa, Chunk>(call, tiling.panels_of(task));
            std::byte* own =
                call.args.workspace + workspace.x.bytes + workspace.worker * static_cast<std::size_t>(worker);
            DequantizeKernel<Isa, Chunk> kernel = {call, reinterpret_cast<float*>(own), own + workspace.sums};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), call.problem.k);
        });
    }

    static void multiply_codes(const DequantizeCall& call, const Workspace& workspace) {
        switch (call.layout.code) {
            case Code::int8:
                return call.layout.offsets ? multiply<Bytes<Isa, true>>(call, workspace)
                                           : multiply<Bytes<Isa, false>>(call, workspace);
            case Code::nibble:
                if (call.layout.dual_blocks != 0) return multiply<Nibbles<Isa, Extra::dual>>(call, workspace);
                return call.layout.offsets ? multiply<Nibbles<Isa, Extra::offset>>(call, workspace)
                                           : multiply<Nibbles<Isa, Extra::none>>(call, workspace);
            case Code::half:
                return multiply<Halves<Isa, 0>>(call, workspace);
            case Code::narrow_half:
                return multiply<Halves<Isa, 1>>(call, workspace);
        }
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const Workspace workspace(problem);
        const CodePanels layout(problem, Isa::kColumns);
        for (std::int64_t i = 0; i < workspace.parts; ++i) {
            const Range part = part_of(problem.m, workspace.parts, i);
            const FloatRows x(part.count, problem.k, workspace.x.block);
            fill_rows<Isa>(problem, args, x, part.first);
            multiply_codes({problem, args, layout, x, part.first}, workspace);
        }
    }
};

}  // namespace
}  // namespace aerogel
