// The fast Walsh-Hadamard transform and ConvRot's for any x86-64.
#include "kernels/cpu/baseline/kernels.h"

#include <cmath>

#include "kernels/cpu/rotation_loops.h"
#include "kernels/cpu/row_tasks.h"

namespace aerogel {
namespace {

void hadamard(const HadamardArgs& args) noexcept {
    const float norm = 1.0F / std::sqrt(static_cast<float>(args.block));
    for_rows(args.rows, args.columns, [&](std::int64_t r) {
        const float* x = args.x + r * args.x_stride;
        float* y = args.y + r * args.y_stride;
        for (std::int64_t k = 0; k < args.columns; ++k) {
            y[k] = x[k] * (args.signs == nullptr ? norm : norm * args.signs[k]);
        }
        for (std::int64_t k = 0; k < args.columns; k += args.block)
            transform_in_loops(y + k, {args.kind, args.block});
    });
}

}  // namespace

constexpr HadamardKernel baseline::kHadamard = {"cpu.baseline.hadamard", hadamard, true};

}  // namespace aerogel
