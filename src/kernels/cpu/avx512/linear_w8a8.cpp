// W8A8 with AVX-512 VNNI. vpdpbusd multiplies unsigned by signed bytes, so x_q + 128 is stored and
// 128 * sum_k w comes off again in the epilogue: exact for every int8 value, int32 wraps around.
#include "kernels/cpu/linear_w8a8.h"

#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_quantize.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

/// 9 x 48 sums: a load for every 2.25 products, where 14 x 32 needs one for every 1.75; and panels of 24 KiB.
/// Both matter where a core's load ports and first cache serve two threads.
struct Vnni {
    static constexpr int kVectors = 3;
    static constexpr std::int64_t kRows = 9;
    static constexpr std::int64_t kColumns = kVectors * 16;
    static constexpr std::int64_t kSteps = kBlockSteps / 2;
    static constexpr std::int64_t kIntegers = 1;
    static constexpr PanelForm kForm = {kColumns, 4, 1, 1};

    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<ByteSteps, kVectors, kRows>(rows, block);
    }

    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i) {
        quantize_bytes(problem, args, rows, i, static_cast<char>(0x80));
    }

    static void rotate_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
        rotated_row(problem, args, i, out);
    }

    static void finish_integers(const Finish& finish, const Place& place, const std::int32_t* sums) {
        for (std::int64_t half = 0; half < kColumns; half += 16) {
            const std::int64_t column = place.panel * kColumns + half;
            const ColumnFinish columns(finish, column);
            const __m512i w_sum = _mm512_load_si512(finish.args.packed + finish.layout.sum + column * 4);
            const __m512i excess = _mm512_slli_epi32(w_sum, 7);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m512i sum = _mm512_load_si512(sums + r * kColumns + half);
                columns.write(place.row + r, _mm512_sub_epi32(sum, excess), finish.s_t[r]);
            }
        }
    }
};

using Row = W8A8LinearRow<Vnni>;

}  // namespace

constexpr LinearKernel avx512::kW8A8 = {
    "cpu.avx512.w8a8", takes_w8a8, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run, true};

}  // namespace aerogel
