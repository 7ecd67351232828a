// The products of bfloat16 attention with vdpbf16ps, which adds two products to each of 16 float32 sums.
// Blocks of at most 11 rows x 2 vectors: 22 sums in flight, where 12 hide the latency; a vector of columns
// meets 32-bit pairs of a row.
#include "kernels/cpu/avx512_bf16/kernels.h"

#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/bf16_attention_driver.h"

namespace aerogel {
namespace {

constexpr int kMostRows = 11;

template <int kRows>
using Sums = __m512[kRows][2];

/// Pairs of rows and the pairs of 2 x 16 columns that they meet, in bfloat16 numbers.
struct PairOperands {
    const Bf16Bits* rows;
    std::int64_t stride;
    const Bf16Bits* columns;
    std::int64_t right;  ///< from the first 16 columns to the others
    std::int64_t steps;
};

template <int kRows>
[[gnu::always_inline]] inline void add_pairs(Sums<kRows>& sums, const PairOperands& x) {
    const Bf16Bits *rows = x.rows, *columns = x.columns;
    for (std::int64_t step = 0; step < x.steps; ++step, rows += 2, columns += kDepth) {
        const auto left = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(columns));
        const auto right = __builtin_bit_cast(__m512bh, _mm512_loadu_si512(columns + x.right));
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            std::int32_t pair = 0;
            __builtin_memcpy(&pair, rows + r * x.stride, sizeof(pair));
            const auto both = __builtin_bit_cast(__m512bh, _mm512_set1_epi32(pair));
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], both, left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], both, right);
        }
    }
}

template <int kRows>
void score_rows(const Bf16Tile& tile, std::int64_t row, const Bf16Bits* k, float* scores) {
    Sums<kRows> sums;
#pragma GCC unroll 16
    for (auto& sum : sums) sum[0] = sum[1] = Avx512::zero();
    add_pairs<kRows>(sums, {tile.q + row * tile.d, tile.d, k, kHalf * tile.d, (tile.head_dim + 1) / 2});
    float* out = scores + row * kScoreStride;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, out += kScoreStride) {
        Avx512::store(out, sums[r][0]);
        Avx512::store(out + kHalf, sums[r][1]);
    }
}

template <int kRows>
void value_rows(const Bf16Tile& tile, std::int64_t row, const ValuePanels& panels, std::int64_t d) {
    Sums<kRows> sums;
    float* o = tile.o + row * tile.d + d;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
        sums[r][0] = Avx512::load(o + r * tile.d);
        sums[r][1] = Avx512::load(o + r * tile.d + kHalf);
    }
    const Bf16Bits* weights = tile.weights + row * kWeightStride;
    for (std::int64_t p = 0; p < panels.count; ++p)
        add_pairs<kRows>(sums,
                         {weights + p * kBlock, kWeightStride, panels.at[p] + d * kBlock, kTileSize, kHalf});
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
        Avx512::store(o + r * tile.d, sums[r][0]);
        Avx512::store(o + r * tile.d + kHalf, sums[r][1]);
    }
}

template <int... kRows>
struct RowTable {
    static constexpr decltype(&score_rows<1>) kScores[] = {score_rows<kRows + 1>...};
    static constexpr decltype(&value_rows<1>) kValues[] = {value_rows<kRows + 1>...};
};
using Table = RowTable<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10>;

/// f(first row, rows) for groups of the rows as equal as possible.
template <typename F>
void for_row_groups(std::int64_t rows, F&& f) {
    const std::int64_t groups = (rows + kMostRows - 1) / kMostRows;
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = rows * g / groups;
        f(first, rows * (g + 1) / groups - first);
    }
}

struct DotProducts {
    static constexpr std::int64_t kTaskRows = kMaxTileRows;
    static constexpr bool kOverlaps = false;

    static void begin() {}
    static void end() {}

    /// Scores for one panel of 32 keys.
    static void score_panel(const Bf16Tile& tile, const Bf16Bits* k, float* scores) {
        for_row_groups(tile.rows, [&](std::int64_t row, std::int64_t rows) {
            Table::kScores[rows - 1](tile, row, k, scores);
        });
    }

    /// o += weights v.
    static void add_values(const Bf16Tile& tile, const ValuePanels& panels) {
        for (std::int64_t d = 0; d < tile.d; d += kBlock)
            for_row_groups(tile.rows, [&](std::int64_t row, std::int64_t rows) {
                Table::kValues[rows - 1](tile, row, panels, d);
            });
    }
};

}  // namespace

constexpr AttentionKernel avx512_bf16::kAttention = {.name = "cpu.avx512_bf16.attention",
                                                     .formats = kFloatFormats,
                                                     .why_not = takes_bf16,
                                                     .workspace_bytes = bf16_attention_workspace<DotProducts>,
                                                     .run = bf16_attention<DotProducts>,
                                                     .rounds_weights = true};

}  // namespace aerogel
