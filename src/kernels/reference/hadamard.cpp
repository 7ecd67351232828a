// block^2 terms per group: the oracle, and far too slow for anything else.
#include "kernels/reference/kernels.h"

#include <bit>
#include <cmath>

#include "base/thread_pool.h"

namespace aerogel::reference {
namespace {

// The sign of h[i,j]: of Sylvester's matrix, or of ConvRot's, whose digits to base four are minus one where
// they add up to three.
double sign_of(RotationKind kind, std::int64_t i, std::int64_t j) {
    if (kind == RotationKind::hadamard)
        return std::popcount(static_cast<std::uint64_t>(i & j)) % 2 == 0 ? 1.0 : -1.0;
    double sign = 1.0;
    for (; i != 0 || j != 0; i /= 4, j /= 4)
        if (i % 4 + j % 4 == 3) sign = -sign;
    return sign;
}

void hadamard(const HadamardArgs& args) noexcept {
    const double norm = 1.0 / std::sqrt(static_cast<double>(args.block));
    parallel_for(args.rows, [&](std::int64_t r, int) {
        const float* x = args.x + r * args.x_stride;
        float* y = args.y + r * args.y_stride;
        for (std::int64_t column = 0; column < args.columns; ++column) {
            const std::int64_t first = column / args.block * args.block;
            double sum = 0.0;
            for (std::int64_t j = 0; j < args.block; ++j) {
                const double own = args.signs == nullptr ? 1.0 : static_cast<double>(args.signs[first + j]);
                sum += sign_of(args.kind, column - first, j) * own * static_cast<double>(x[first + j]);
            }
            y[column] = static_cast<float>(sum * norm);
        }
    });
}

}  // namespace

constexpr HadamardKernel kHadamard = {"reference.hadamard", hadamard, true};

}  // namespace aerogel::reference
