// Float activations with AVX2: float weights (f32) and int8 weights decoded on the way (W8A16).
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx2/linear.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

struct Avx2Floats {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;

    static void multiply_floats(std::int64_t rows, const Block& block) {
        multiply_block<FloatSteps>(rows, block);
    }

    static void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t row, Range steps,
                         float* out) {
        const RowReader reader(problem, args, row);
        for (std::int64_t p = 0; p < steps.count; p += kLanes) {
            _mm256_store_ps(out + p, reader.load(steps.first + p, steps.count - p));
        }
    }

    static void decode(const GroupScales& group, const std::byte* values, std::int64_t steps, float* out) {
        for (std::int64_t half = 0; half < kColumns; half += kLanes) {
            const __m256 scale = _mm256_load_ps(group.scale + half);
            const __m256 offset =
                group.offset == nullptr ? _mm256_setzero_ps() : _mm256_load_ps(group.offset + half);
            for (std::int64_t at = half; at < steps * kColumns; at += kColumns) {
                const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values + at));
                const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
                _mm256_store_ps(out + at, _mm256_mul_ps(_mm256_sub_ps(value, offset), scale));
            }
        }
    }

    static void finish_floats(const LinearProblem& problem, const LinearArgs& args, const Place& place,
                              const float* sums) {
        for (std::int64_t half = 0; half < kColumns; half += kLanes) {
            const std::int64_t column = place.panel * kColumns + half;
            const std::int64_t count = problem.n - column;
            if (count <= 0) return;
            const __m256 bias =
                args.bias == nullptr ? _mm256_setzero_ps() : load_floats(args.bias + column, count);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m256 value = _mm256_add_ps(_mm256_load_ps(sums + r * kColumns + half), bias);
                write_columns(problem, args.y, (place.row + r) * args.y_stride + column, value, count);
            }
        }
    }
};

using Row = FloatLinearRow<Avx2Floats>;

}  // namespace

constexpr LinearKernel kAvx2Float = {"cpu.avx2.f32", CpuLevel::avx2,       takes_float, Row::packed_bytes,
                                     Row::pack,      Row::workspace_bytes, Row::run};
constexpr LinearKernel kAvx2W8A16 = {"cpu.avx2.w8a16", CpuLevel::avx2,       takes_w8a16, Row::packed_bytes,
                                     Row::pack,        Row::workspace_bytes, Row::run};

}  // namespace aerogel
