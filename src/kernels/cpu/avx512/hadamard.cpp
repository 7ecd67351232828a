// Rotations of rows with AVX-512.
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/rotation.h"
#include "kernels/cpu/row_tasks.h"

namespace aerogel {
namespace {

void scale_row(const HadamardArgs& args, const float* x, float* y, float norm) {
    const __m512 norms = _mm512_set1_ps(norm);
    for (std::int64_t k = 0; k < args.columns; k += 16) {
        const std::int64_t left = args.columns - k;
        const auto mask = static_cast<__mmask16>(left < 16 ? (1 << left) - 1 : 0xFFFF);
        const __m512 by =
            args.signs == nullptr ? norms : _mm512_mul_ps(norms, _mm512_maskz_loadu_ps(mask, args.signs + k));
        _mm512_mask_storeu_ps(y + k, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k), by));
    }
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

constexpr HadamardKernel avx512::kHadamard = {"cpu.avx512.hadamard", hadamard, true};

}  // namespace aerogel
