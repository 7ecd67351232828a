// Rotations of rows with AVX2.
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/rotation.h"
#include "kernels/cpu/row_tasks.h"

namespace aerogel {
namespace {

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
    const float norm = rotation_norm(args.block);
    for_rows(args.rows, args.columns, [&](std::int64_t r) {
        float* y = args.y + r * args.y_stride;
        scale_row(args, args.x + r * args.x_stride, y, norm);
        for (std::int64_t k = 0; k < args.columns; k += args.block)
            transform_block(y + k, {args.kind, args.block});
    });
}

}  // namespace

constexpr HadamardKernel avx2::kHadamard = {"cpu.avx2.hadamard", hadamard, true};

}  // namespace aerogel
