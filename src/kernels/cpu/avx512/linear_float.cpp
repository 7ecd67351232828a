// Float activations with AVX-512: float weights from panels as they are (f32), int8 weights decoded to
// float panels block by block (W8A16), so that both run the same float32 register kernel.
#include <immintrin.h>

#include "aerogel/threads.h"
#include "kernels/cpu/avx512/linear.h"
#include "kernels/cpu/avx512/linear_tile.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

constexpr PanelForm kFloatForm = {kTileColumns, 1, 1, 4};
constexpr PanelForm kInt8Form = {kTileColumns, 1, 1, 1};

/// Scratch of one worker: rows of x, one decoded block of weights, the sums.
struct Scratch {
    explicit Scratch(const Tiling& tiling)
        : weights(aligned_bytes(largest_rows(tiling) * kRowSteps * 4)),
          sums(weights + aligned_bytes(kBlockSteps * kTileColumns * 4)),
          bytes(sums + sums_bytes(tiling, kTileColumns)) {}

    std::size_t weights;
    std::size_t sums;
    std::size_t bytes;
};

struct FloatKernel {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        for (std::int64_t i = 0; i < rows.count; ++i) {
            const RowReader row(problem, args, rows.first + i);
            float* out = x + i * kRowSteps;
            for (std::int64_t p = 0; p < count; p += 16) {
                _mm512_store_ps(out + p, row.load(first + p, lanes(count - p)));
            }
        }
        return reinterpret_cast<const std::int32_t*>(x);
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) const {
        return problem.weight == Format::int8 ? decoded(panel, first, count) : w_source(panel, first);
    }

    /// (w - offset) * scale, one run of steps per group.
    const void* decoded(std::int64_t panel, std::int64_t first, std::int64_t count) const {
        const std::byte* values = args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes;
        const std::int64_t width = problem.group_size == 0 ? problem.k : problem.group_size;
        for (std::int64_t step = first; step < first + count;) {
            const std::int64_t group = step / width;
            const std::int64_t group_end = (group + 1) * width;
            const std::int64_t end = group_end < first + count ? group_end : first + count;
            const std::int64_t at = (panel * layout.groups + group) * kColumns;
            for (std::int64_t half = 0; half < kColumns; half += 16) {
                const __m512 scale = _mm512_load_ps(array(layout.scale) + at + half);
                const __m512 offset = problem.weight_offset ? _mm512_load_ps(array(layout.offset) + at + half)
                                                            : _mm512_setzero_ps();
                for (std::int64_t s = step; s < end; ++s) {
                    const __m128i bytes =
                        _mm_load_si128(reinterpret_cast<const __m128i*>(values + s * kColumns + half));
                    const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
                    _mm512_store_ps(weights + (s - first) * kColumns + half,
                                    _mm512_mul_ps(_mm512_sub_ps(value, offset), scale));
                }
            }
            step = end;
        }
        return weights;
    }

    void multiply(std::int64_t rows, const Block& block) const { multiply_block<FloatSteps>(rows, block); }

    void finish(std::int64_t row, std::int64_t rows, std::int64_t panel, const std::byte* sum_bytes) const {
        const auto* in = reinterpret_cast<const float*>(sum_bytes);
        for (std::int64_t half = 0; half < kColumns; half += 16) {
            const std::int64_t column = panel * kColumns + half;
            const __mmask16 mask = lanes(problem.n - column);
            const __m512 bias =
                args.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, args.bias + column);
            for (std::int64_t r = 0; r < rows; ++r) {
                const __m512 value = _mm512_add_ps(_mm512_load_ps(in + r * kColumns + half), bias);
                write_columns(problem, args.y, (row + r) * args.y_stride + column, value, mask);
            }
        }
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

std::size_t packed_bytes(const LinearProblem& problem) {
    return PackedPanels(problem, problem.weight == Format::int8 ? kInt8Form : kFloatForm).bytes;
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    pack_panels(problem, problem.weight == Format::int8 ? kInt8Form : kFloatForm, weight, packed);
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    const Scratch scratch(Tiling(problem.m, problem.n, kTileColumns));
    return scratch.bytes * static_cast<std::size_t>(num_threads());
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    const Tiling tiling(problem.m, problem.n, kTileColumns);
    const Scratch scratch(tiling);
    const PackedPanels layout(problem, problem.weight == Format::int8 ? kInt8Form : kFloatForm);
    parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
        std::byte* own = args.workspace + scratch.bytes * static_cast<std::size_t>(worker);
        FloatKernel kernel = {problem,
                              args,
                              layout,
                              reinterpret_cast<float*>(own),
                              reinterpret_cast<float*>(own + scratch.weights),
                              own + scratch.sums,
                              kTileColumns * (problem.weight == Format::int8 ? 1 : 4)};
        run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
    });
}

}  // namespace

constexpr LinearKernel kAvx512Float = {
    "cpu.avx512.f32", CpuLevel::avx512, takes_float, packed_bytes, pack, workspace_bytes, run};
constexpr LinearKernel kAvx512W8A16 = {
    "cpu.avx512.w8a16", CpuLevel::avx512, takes_w8a16, packed_bytes, pack, workspace_bytes, run};

}  // namespace aerogel
