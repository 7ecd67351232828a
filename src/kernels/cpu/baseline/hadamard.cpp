// The fast Walsh-Hadamard transform for any x86-64.
#include "kernels/cpu/baseline/kernels.h"

#include <cmath>

#include "kernels/cpu/row_tasks.h"

namespace aerogel {
namespace {

void transform(float* y, std::int64_t block) {
    for (std::int64_t half = 1; half < block; half *= 2) {
        for (std::int64_t first = 0; first < block; first += 2 * half) {
            for (std::int64_t i = first; i < first + half; ++i) {
                const float a = y[i], b = y[i + half];
                y[i] = a + b;
                y[i + half] = a - b;
            }
        }
    }
}

void hadamard(const HadamardArgs& args) noexcept {
    const float norm = 1.0F / std::sqrt(static_cast<float>(args.block));
    for_rows(args.rows, args.columns, [&](std::int64_t r) {
        const float* x = args.x + r * args.x_stride;
        float* y = args.y + r * args.y_stride;
        for (std::int64_t k = 0; k < args.columns; ++k) {
            y[k] = x[k] * (args.signs == nullptr ? norm : norm * args.signs[k]);
        }
        for (std::int64_t k = 0; k < args.columns; k += args.block) transform(y + k, args.block);
    });
}

}  // namespace

constexpr HadamardKernel baseline::kHadamard = {"cpu.baseline.hadamard", hadamard};

}  // namespace aerogel
