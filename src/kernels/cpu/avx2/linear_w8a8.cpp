// W8A8 with AVX2. vpmaddubsw would saturate, so both sides are widened to int16 and vpmaddwd sums pairs of
// products in int32: exact for every int8 value. Weights stay bytes in memory; one block of a panel is
// widened at a time and serves all rows of a task.
#include "kernels/cpu/linear_w8a8.h"

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

/// s_t of a row, NaN when the row is not finite. Among floats without sign, order is integer order, and
/// infinities and NaNs come last.
float token_scale(const RowReader& row, std::int64_t k, float top) {
    __m256i largest = _mm256_setzero_si256();
    for (std::int64_t p = 0; p < k; p += kLanes) {
        const __m256i bits = _mm256_castps_si256(row.load(p, k - p));
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)));
    }
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
    const std::int32_t bits = _mm_cvtsi128_si32(half);
    if (bits >= 0x7F800000) return __builtin_nanf("");
    const float scale = __builtin_bit_cast(float, bits) / top;
    return scale == 0 ? 1.0F : scale;
}

/// q before rounding: x' / s_t, or x' / input_scale + input_offset clamped to int8.
struct Divider {
    __m256 operator()(__m256 x) const {
        const __m256 q = _mm256_div_ps(x, divisor);
        if (dynamic) return q;
        const __m256 shifted = _mm256_add_ps(q, offset);
        const __m256 nan = _mm256_cmp_ps(shifted, shifted, _CMP_UNORD_Q);
        const __m256 known = _mm256_blendv_ps(shifted, offset, nan);
        return _mm256_min_ps(_mm256_max_ps(known, _mm256_set1_ps(-128.0F)), _mm256_set1_ps(127.0F));
    }

    __m256 divisor;
    __m256 offset;
    bool dynamic;
};

/// Rounds 16 values to int16 that hold -top - 1 .. top.
__m256i round_to_words(__m256 low, __m256 high, std::int16_t top) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    return _mm256_min_epi16(_mm256_max_epi16(ordered, _mm256_set1_epi16(~top)), _mm256_set1_epi16(top));
}

struct Avx2Words {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;
    static constexpr std::int64_t kSteps = kBlockSteps;
    static constexpr PanelForm kForm = {kTileColumns, 2, 1, 1};
    static constexpr bool kWidened = true;

    static void widen(const std::byte* values, std::int64_t steps, std::byte* out) {
        for (std::int64_t i = 0; i < steps * kColumns * 2; i += 16) {
            const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(values + i));
            _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * 2), _mm256_cvtepi8_epi16(bytes));
        }
    }

    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<WordSteps>(rows, block);
    }

    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i) {
        const RowReader row(problem, args, i);
        const bool dynamic = problem.activation != Activation::per_tensor;
        const std::int16_t top = problem.activation == Activation::per_token_int4 ? 7 : 127;
        const float s_t = dynamic ? token_scale(row, problem.k, top) : 1.0F;
        rows.scale(args.workspace)[i] = s_t;
        const bool finite = s_t == s_t;
        const Divider divider = {_mm256_set1_ps(dynamic ? s_t : args.input_scale),
                                 _mm256_set1_ps(args.input_offset), dynamic};
        constexpr std::int64_t kBlock = kBlockSteps * 2;
        for (std::int64_t block = 0; block * kBlock < problem.k; ++block) {
            auto* out = reinterpret_cast<__m256i*>(rows.row(args.workspace, i, block));
            const std::int64_t left = problem.k - block * kBlock;
            const std::int64_t end = left < kBlock ? left : kBlock;
            for (std::int64_t p = 0; p < end; p += 16) {
                const __m256 low = row.load(block * kBlock + p, left - p);
                const __m256 high = row.load(block * kBlock + p + kLanes, left - p - kLanes);
                _mm256_store_si256(out + p / 16, finite ? round_to_words(divider(low), divider(high), top)
                                                        : _mm256_setzero_si256());
            }
        }
    }

    static void finish_integers(const Finish& finish, const Place& place, const std::int32_t* sums) {
        const LinearProblem& problem = finish.problem;
        const LinearArgs& args = finish.args;
        const bool dynamic = problem.activation != Activation::per_tensor;
        for (std::int64_t half = 0; half < kColumns; half += kLanes) {
            const std::int64_t column = place.panel * kColumns + half;
            const std::int64_t count = problem.n - column;
            if (count <= 0) return;
            const bool has_bias = dynamic && args.bias != nullptr;
            const float* scales =
                dynamic ? reinterpret_cast<const float*>(args.packed + finish.layout.scale) : args.deq_scale;
            const __m256 scale = load_floats(scales + column, count);
            const __m256 bias = has_bias ? load_floats(args.bias + column, count) : _mm256_setzero_ps();
            const __m256i quant_bias = dynamic
                                           ? _mm256_setzero_si256()
                                           : _mm256_maskload_epi32(args.quant_bias + column, lanes(count));
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m256i sum = _mm256_add_epi32(load_lanes(sums + r * kColumns + half), quant_bias);
                const __m256 channels = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
                __m256 y = _mm256_mul_ps(channels, _mm256_set1_ps(finish.s_t[r]));
                if (has_bias) y = _mm256_add_ps(y, bias);
                write_columns(problem, args.y, (place.row + r) * args.y_stride + column, y, count);
            }
        }
    }
};

using Row = W8A8LinearRow<Avx2Words>;

}  // namespace

constexpr LinearKernel avx2::kW8A8 = {"cpu.avx2.w8a8", takes_w8a8,           Row::packed_bytes,
                                      Row::pack,       Row::workspace_bytes, Row::run};

}  // namespace aerogel
