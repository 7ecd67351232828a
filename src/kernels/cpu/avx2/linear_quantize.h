// The two ends of integer linears with 256-bit registers: rows of x to bytes (dynamic per token or static per
// tensor), and int32 sums to y. Exactly the float32 operations that kernels/linear.h spells out, in that
// order. x_q is signed, and the instructions multiply unsigned by signed bytes: Biased and Signed are two
// ways to say the one with the other. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/avx2/linear_tile.h"
#include "kernels/cpu/avx2/rotation.h"
#include "kernels/cpu/avx2/signed_bytes.h"
#include "kernels/cpu/byte_order.h"
#include "kernels/cpu/linear_w8a8.h"

namespace aerogel {
namespace {

/// s_t of a row, NaN when the row is not finite. Among floats without sign, order is integer order, and
/// infinities and NaNs come last.
inline float token_scale(const RowReader& row, std::int64_t k, float top) {
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

/// Row i of x rotated, as floats; `out` has room for a whole vector at its end.
inline void rotated_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
    const RotationShape shape = args.rotation.shape;
    const float* factors = args.rotation.factors;
    const RowReader row(problem, args, i);
    const __m256 norm = _mm256_set1_ps(rotation_norm(shape.block));
    for (std::int64_t p = 0; p < problem.k; p += kLanes) {
        const std::int64_t left = problem.k - p;
        const __m256 by = factors == nullptr ? norm : _mm256_mul_ps(norm, load_floats(factors + p, left));
        _mm256_storeu_ps(out + p, _mm256_mul_ps(row.load(p, left), by));
    }
    for (std::int64_t p = 0; p < problem.k; p += shape.block) transform_block(out + p, shape);
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

/// Rounds 16 values to int8 that hold -top - 1 .. top.
inline __m128i round_to_bytes(__m256 low, __m256 high, char top) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    return _mm_min_epi8(_mm_max_epi8(bytes, _mm_set1_epi8(static_cast<char>(~top))), _mm_set1_epi8(top));
}

/// The first `count` of 16 bytes, the rest zeros.
inline __m128i first_bytes(__m128i bytes, std::int64_t count) {
    const __m128i index = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto limit = static_cast<char>(count < 16 ? count : 16);
    return _mm_and_si128(bytes, _mm_cmpgt_epi8(_mm_set1_epi8(limit), index));
}

/// x_q + 128. The sums of a column are 128 times the sum of its weights too large.
struct Biased {
    static constexpr std::int64_t kIntegers = 1;
    static constexpr int kBiasBits = 7;

    void store(std::int32_t* out, __m128i q) {
        _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm_xor_si128(q, _mm_set1_epi8(-128)));
    }
    std::int32_t excess() const { return 0; }
};

/// As split_signs() writes it. The sums of a row are too small by its excess.
struct Signed {
    static constexpr std::int64_t kIntegers = 2;

    void store(std::int32_t* out, __m128i q) { split_signs(q, out, parts); }
    std::int32_t excess() const { return excess_of(parts); }

    __m128i parts = _mm_setzero_si128();
};

/// Row i of x; values beyond k are zeros.
template <typename Form>
void quantize_bytes(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                    std::int64_t i, ByteOrder order = ByteOrder::plain) {
    const __m128i places = places_of(order);
    const RowReader row(problem, args, i);
    const bool dynamic = problem.activation != Activation::per_tensor;
    const char top = problem.activation == Activation::per_token_int4 ? 7 : 127;
    const float s_t = dynamic ? token_scale(row, problem.k, top) : 1.0F;
    rows.scale(args.workspace)[i] = s_t;
    const bool finite = s_t == s_t;
    const Divider divider = {_mm256_set1_ps(dynamic ? s_t : args.input_scale),
                             _mm256_set1_ps(args.input_offset), dynamic};
    Form form;
    constexpr std::int64_t kBlock = kBlockSteps / Form::kIntegers * 4;
    for (std::int64_t block = 0; block * kBlock < problem.k; ++block) {
        std::int32_t* out = rows.row(args.workspace, i, block);
        const std::int64_t left = problem.k - block * kBlock;
        const std::int64_t end = left < kBlock ? left : kBlock;
        for (std::int64_t p = 0; p < end; p += 16, out += 4 * Form::kIntegers) {
            const __m256 low = row.load(block * kBlock + p, left - p);
            const __m256 high = row.load(block * kBlock + p + kLanes, left - p - kLanes);
            const __m128i q = finite ? round_to_bytes(divider(low), divider(high), top) : _mm_setzero_si128();
            form.store(out, _mm_shuffle_epi8(first_bytes(q, left - p), places));
        }
    }
    rows.excess(args.workspace)[i] = form.excess();
}

/// What becomes of the sums of 8 columns.
template <typename Form>
struct ColumnFinish {
    ColumnFinish(const Finish& finish, std::int64_t first)
        : problem(finish.problem), args(finish.args), column(first), count(finish.problem.n - first) {
        const bool dynamic = problem.activation != Activation::per_tensor;
        has_bias = dynamic && args.bias != nullptr;
        const auto* scales =
            dynamic ? reinterpret_cast<const float*>(args.packed + finish.layout.scale) : args.deq_scale;
        scale = load_floats(scales + column, count);
        if (has_bias) bias = load_floats(args.bias + column, count);
        if (!dynamic) integers = _mm256_maskload_epi32(args.quant_bias + column, lanes(count));
        if constexpr (Form::kIntegers == 1) {
            const auto* sums = reinterpret_cast<const std::int32_t*>(args.packed + finish.layout.sum);
            const __m256i excess = _mm256_slli_epi32(load_lanes(sums + column), Form::kBiasBits);
            integers = _mm256_sub_epi32(integers, excess);
        }
    }

    void write(std::int64_t row, __m256i sum, float s_t, std::int32_t excess) const {
        if constexpr (Form::kIntegers == 2) sum = _mm256_add_epi32(sum, _mm256_set1_epi32(excess));
        const __m256 channels = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sum, integers)), scale);
        __m256 y = _mm256_mul_ps(channels, _mm256_set1_ps(s_t));
        if (has_bias) y = _mm256_add_ps(y, bias);
        write_columns(problem, args.y, row * args.y_stride + column, y, count);
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    std::int64_t column;
    std::int64_t count;
    bool has_bias;
    __m256 scale;
    __m256 bias = _mm256_setzero_ps();
    __m256i integers = _mm256_setzero_si256();
};

/// The ends of an `Isa` of linear_w8a8.h, in tiles of kTall x kWide and steps of four bytes.
template <typename Form, std::int64_t kTall = kTileRows, std::int64_t kWide = kTileColumns>
struct ByteRows {
    static constexpr std::int64_t kRows = kTall;
    static constexpr std::int64_t kColumns = kWide;
    static constexpr std::int64_t kIntegers = Form::kIntegers;
    static constexpr std::int64_t kSteps = kBlockSteps / kIntegers;
    static constexpr PanelForm kForm = {kWide, 4, 1, 1};

    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i) {
        quantize_bytes<Form>(problem, args, rows, i);
    }

    static void rotate_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
        rotated_row(problem, args, i, out);
    }

    static void finish_integers(const Finish& finish, const Place& place, const std::int32_t* sums) {
        for (std::int64_t half = 0; half < kColumns; half += kLanes) {
            const std::int64_t column = place.panel * kColumns + half;
            if (column >= finish.problem.n) return;
            const ColumnFinish<Form> columns(finish, column);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                columns.write(place.row + r, load_lanes(sums + r * kColumns + half), finish.s_t[r],
                              finish.excess[r]);
            }
        }
    }
};

}  // namespace
}  // namespace aerogel
