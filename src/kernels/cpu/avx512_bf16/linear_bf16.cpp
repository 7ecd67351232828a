// bfloat16 weights with AVX-512 BF16, in panels of pairs. They meet x of bfloat16 in vdpbf16ps; x of float32,
// or times mul_scale, meets the weights widened in registers, with the products, sums and bits of
// cpu.avx512.f32.
#include "aerogel/threads.h"
#include "kernels/cpu/avx512/linear_tile.h"
#include "kernels/cpu/avx512_bf16/kernels.h"
#include "kernels/cpu/linear_pack.h"

namespace aerogel {
namespace {

constexpr PanelForm kForm = {kTileColumns, 2, 1, 2};

/// Two bfloat16 numbers per step; the sum takes both products, one after the other.
struct PairSteps {
    static __m512i dot(__m512i sum, __m512i x, __m512i w) {
        return _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), __builtin_bit_cast(__m512bh, x),
                                                    __builtin_bit_cast(__m512bh, w)));
    }
};

/// Floats of the first or second number of 16 pairs.
template <int kWhich>
__m512 widened(const std::int32_t* pairs) {
    const __m512i both = _mm512_load_si512(pairs);
    return _mm512_castsi512_ps(
        kWhich == 0 ? _mm512_slli_epi32(both, 16)
                    : _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
}

template <int kWhich, int kRows>
[[gnu::always_inline]] inline void add_products(__m512 (&sums)[kRows][2], const std::int32_t* x,
                                                const std::int32_t* w) {
    const __m512 left = widened<kWhich>(w), right = widened<kWhich>(w + 16);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
        const __m512 value = _mm512_castsi512_ps(_mm512_set1_epi32(x[r * kRowSteps + kWhich]));
        sums[r][0] = _mm512_fmadd_ps(value, left, sums[r][0]);
        sums[r][1] = _mm512_fmadd_ps(value, right, sums[r][1]);
    }
}

/// As multiply_rows() of linear_tile.h, with two floats of x per step.
template <int kRows>
[[gnu::noinline]] void multiply_wide_rows(const Block& block) {
    __m512 sums[kRows][2];
    auto* out = static_cast<float*>(block.sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j)
            sums[r][j] = block.first ? _mm512_setzero_ps() : _mm512_load_ps(out + r * kTileColumns + j * 16);
    const std::int32_t* x = block.x;
    const auto* w = static_cast<const std::int32_t*>(block.w);
    for (std::int64_t done = 0; done < block.steps; done += Prefetch::kSteps) {
        block.ahead.portion(done / Prefetch::kSteps);
        const std::int64_t left = block.steps - done;
        const std::int32_t* end = x + 2 * (left < Prefetch::kSteps ? left : Prefetch::kSteps);
        for (; x != end; x += 2, w += kTileColumns) {
            add_products<0>(sums, x, w);
            add_products<1>(sums, x, w);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) _mm512_store_ps(out + r * kTileColumns + j * 16, sums[r][j]);
}

template <int kRows>
void multiply_wide(std::int64_t rows, const Block& block) {
    if constexpr (kRows > 0) {
        if (rows == kRows) {
            multiply_wide_rows<kRows>(block);
        } else {
            multiply_wide<kRows - 1>(rows, block);
        }
    }
}

/// What run_task() needs; a step is a pair.
struct PairKernel {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;
    // NOLINTNEXTLINE(readability-identifier-naming): what run_task() calls it
    static constexpr std::int64_t step_bytes = kColumns * 4;

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return args.packed + static_cast<std::size_t>(panel) * layout.panel_bytes + first * step_bytes;
    }

    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t) const {
        return w_source(panel, first);
    }

    void finish(const Place& place, const std::byte* in) const {
        Avx512Floats::finish_floats(problem, args, place, reinterpret_cast<const float*>(in));
    }

    /// How many of the columns first, ... there are.
    std::int64_t part_of_row(std::int64_t first, std::int64_t count) const {
        return problem.k - first < count ? problem.k - first : count;
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    const PackedPanels& layout;
    std::int32_t* x;
    std::byte* sums;
};

struct Bf16Kernel : PairKernel {
    static constexpr std::int64_t kSteps = kBlockSteps;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        constexpr std::int64_t kVector = 32;
        const std::int64_t values = part_of_row(2 * first, 2 * count);
        const std::int64_t whole = values / kVector * kVector;
        const __mmask32 rest = (__mmask32{1} << (values - whole)) - 1;
        for (std::int64_t i = 0; i < rows.count; ++i) {
            const auto* from =
                static_cast<const BFloat16*>(args.x) + (rows.first + i) * args.x_stride + 2 * first;
            std::int32_t* to = x + i * kRowSteps;
            for (std::int64_t p = 0; p < whole; p += kVector)
                _mm512_store_si512(to + p / 2, _mm512_loadu_si512(from + p));
            if (rest != 0) _mm512_store_si512(to + whole / 2, _mm512_maskz_loadu_epi16(rest, from + whole));
        }
        return x;
    }

    static void multiply(std::int64_t rows, const Block& block) {
        multiply_block<PairSteps, 2, static_cast<int>(kTileRows)>(rows, block);
    }
};

struct WideKernel : PairKernel {
    static constexpr std::int64_t kSteps = kBlockSteps / 2;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t count) const {
        const Range columns = {2 * first, part_of_row(2 * first, 2 * count)};
        for (std::int64_t i = 0; i < rows.count; ++i) {
            auto* row = reinterpret_cast<float*>(x + i * kRowSteps);  // padded with zeros to 16
            Avx512Floats::read_row(problem, args, rows.first + i, columns, row);
        }
        return x;
    }

    static void multiply(std::int64_t rows, const Block& block) {
        multiply_wide<static_cast<int>(kTileRows)>(rows, block);
    }
};

/// Scratch of one worker: rows of x, the sums.
struct Scratch {
    explicit Scratch(const Tiling& tiling)
        : sums(aligned_bytes(largest_rows(tiling) * kRowSteps * 4)),
          bytes(sums + sums_bytes(tiling, kTileColumns)) {}

    std::size_t sums;
    std::size_t bytes;
};

std::size_t packed_bytes(const LinearProblem& problem) {
    return PackedPanels(problem, kForm).bytes;
}

void pack(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    pack_panels(problem, kForm, weight, packed);
}

std::size_t workspace_bytes(const LinearProblem& problem) {
    return Scratch(Tiling(problem.m, problem.n, kTileColumns)).bytes *
           static_cast<std::size_t>(num_threads());
}

template <typename Kernel>
void multiply_all(const LinearProblem& problem, const LinearArgs& args) {
    const Tiling tiling(problem.m, problem.n, kTileColumns);
    const Scratch scratch(tiling);
    const PackedPanels layout(problem, kForm);
    parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
        std::byte* own = args.workspace + scratch.bytes * static_cast<std::size_t>(worker);
        Kernel kernel = {{problem, args, layout, reinterpret_cast<std::int32_t*>(own), own + scratch.sums}};
        run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), layout.steps);
    });
}

void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
    if (problem.x == DType::bf16 && args.mul_scale == nullptr) return multiply_all<Bf16Kernel>(problem, args);
    multiply_all<WideKernel>(problem, args);
}

}  // namespace

constexpr LinearKernel avx512_bf16::kBf16 = {
    "cpu.avx512_bf16.bf16", takes_bf16_weights, packed_bytes, pack, workspace_bytes, run};

}  // namespace aerogel
