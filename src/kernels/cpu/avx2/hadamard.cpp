// The fast Walsh-Hadamard transform for AVX2: the first three passes inside vectors of eight, the others
// between them. Groups of less than eight columns take plain loops.
#include "kernels/cpu/avx2/kernels.h"

#include <immintrin.h>

#include "kernels/cpu/row_tasks.h"

namespace aerogel {
namespace {

// The lanes' partners at a distance of 1, 2 and 4, and which lanes of the partner's pair subtract.
__m256 transform_eight(__m256 v) {
    const __m256 odd = _mm256_setr_ps(0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F);
    const __m256 upper_pairs = _mm256_setr_ps(0.0F, 0.0F, -0.0F, -0.0F, 0.0F, 0.0F, -0.0F, -0.0F);
    const __m256 upper_half = _mm256_setr_ps(0.0F, 0.0F, 0.0F, 0.0F, -0.0F, -0.0F, -0.0F, -0.0F);
    v = _mm256_add_ps(_mm256_permute_ps(v, 0xB1), _mm256_xor_ps(v, odd));
    v = _mm256_add_ps(_mm256_permute_ps(v, 0x4E), _mm256_xor_ps(v, upper_pairs));
    return _mm256_add_ps(_mm256_permute2f128_ps(v, v, 1), _mm256_xor_ps(v, upper_half));
}

void transform(float* y, std::int64_t block) {
    for (std::int64_t i = 0; i < block; i += 8)
        _mm256_storeu_ps(y + i, transform_eight(_mm256_loadu_ps(y + i)));
    for (std::int64_t half = 8; half < block; half *= 2) {
        for (std::int64_t first = 0; first < block; first += 2 * half) {
            for (std::int64_t i = first; i < first + half; i += 8) {
                const __m256 a = _mm256_loadu_ps(y + i), b = _mm256_loadu_ps(y + i + half);
                _mm256_storeu_ps(y + i, _mm256_add_ps(a, b));
                _mm256_storeu_ps(y + i + half, _mm256_sub_ps(a, b));
            }
        }
    }
}

void transform_small(float* y, std::int64_t block) {
    for (std::int64_t half = 1; half < block; half *= 2) {
        for (std::int64_t i = 0; i < block; ++i) {
            if ((i & half) != 0) continue;
            const float a = y[i], b = y[i + half];
            y[i] = a + b;
            y[i + half] = a - b;
        }
    }
}

void scale_row(const HadamardArgs& args, const float* x, float* y, float norm) {
    std::int64_t k = 0;
    const __m256 norms = _mm256_set1_ps(norm);
    for (; k + 8 <= args.columns; k += 8) {
        const __m256 by =
            args.signs == nullptr ? norms : _mm256_mul_ps(norms, _mm256_loadu_ps(args.signs + k));
        _mm256_storeu_ps(y + k, _mm256_mul_ps(_mm256_loadu_ps(x + k), by));
    }
    for (; k < args.columns; ++k) y[k] = x[k] * (args.signs == nullptr ? norm : norm * args.signs[k]);
}

void hadamard(const HadamardArgs& args) noexcept {
    const float norm = 1.0F / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(args.block))));
    for_rows(args.rows, args.columns, [&](std::int64_t r) {
        float* y = args.y + r * args.y_stride;
        scale_row(args, args.x + r * args.x_stride, y, norm);
        for (std::int64_t k = 0; k < args.columns; k += args.block) {
            args.block < 8 ? transform_small(y + k, args.block) : transform(y + k, args.block);
        }
    });
}

}  // namespace

constexpr HadamardKernel avx2::kHadamard = {"cpu.avx2.hadamard", hadamard};

}  // namespace aerogel
