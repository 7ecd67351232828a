// W8A8 with AVX-512 VNNI. vpdpbusd multiplies unsigned by signed bytes, so x_q + 128 is stored and
// 128 * sum_k w comes off again in the epilogue: exact for every int8 value, int32 wraps around.
#include <immintrin.h>

#include "aerogel/threads.h"
#include "kernels/cpu/avx512/linear.h"
#include "kernels/cpu/avx512/linear_quantize.h"
#include "kernels/cpu/avx512/linear_tile.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

constexpr PanelForm kForm = {kTileColumns, 4, 1, 1};

struct Workspace {
    Workspace(const LinearProblem& problem, const Tiling& tiling, std::int64_t steps)
        : x(problem.m, steps), sums(x.bytes), worker_bytes(sums_bytes(tiling, kTileColumns)) {}

    QuantizedRows x;
    std::size_t sums;
    std::size_t worker_bytes;
};

struct IntegerKernel {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        return x.row(args.workspace, rows.first, first / kBlockSteps);
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t) const {
        return w_source(panel, first);
    }

    void multiply(std::int64_t rows, const Block& block) const { multiply_block<ByteSteps>(rows, block); }

    void finish(std::int64_t row, std::int64_t rows, std::int64_t panel, const std::byte* sum_bytes) const {
        const auto* in = reinterpret_cast<const std::int32_t*>(sum_bytes);
        for (std::int64_t half = 0; half < kColumns; half += 16) {
            const std::int64_t column = panel * kColumns + half;
            const Epilogue epilogue(problem, args, layout, column);
            const __m512i w_sum = _mm512_load_si512(args.packed + layout.sum + column * 4);
            const __m512i excess = _mm512_slli_epi32(w_sum, 7);
            for (std::int64_t r = 0; r < rows; ++r) {
                const __m512i sum = _mm512_sub_epi32(_mm512_load_si512(in + r * kColumns + half), excess);
                epilogue.write(row + r, sum, x.scale(args.workspace)[row + r]);
            }
        }
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    const QuantizedRows& x;
    std::byte* sums;
    std::int64_t step_bytes = kColumns * 4;
};

std::size_t packed_bytes(const LinearProblem& problem) {
    return PackedPanels(problem, kForm).bytes;
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    pack_panels(problem, kForm, weight, packed);
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    const Tiling tiling(problem.m, problem.n, kTileColumns);
    const Workspace workspace(problem, tiling, PackedPanels(problem, kForm).steps);
    return workspace.sums + workspace.worker_bytes * static_cast<std::size_t>(num_threads());
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    const Tiling tiling(problem.m, problem.n, kTileColumns);
    const PackedPanels layout(problem, kForm);
    const Workspace workspace(problem, tiling, layout.steps);
    quantize_rows(problem, args, workspace.x, kUnsignedBytes);
    parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
        std::byte* sums =
            args.workspace + workspace.sums + workspace.worker_bytes * static_cast<std::size_t>(worker);
        IntegerKernel kernel = {problem, args, layout, workspace.x, sums};
        run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
    });
}

}  // namespace

constexpr LinearKernel kAvx512W8A8 = {
    "cpu.avx512.w8a8", CpuLevel::avx512, takes_w8a8, packed_bytes, pack, workspace_bytes, run};

}  // namespace aerogel
