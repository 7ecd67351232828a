// Tables of cosines and sines, made on the host.
#include "model/sinusoids.h"

#include <cmath>

namespace aerogel {

Tensor sinusoids(const std::vector<float>& numbers, std::int64_t dim, Device device, float scale) {
    const auto rows = static_cast<std::int64_t>(numbers.size());
    std::vector<float> table(static_cast<std::size_t>(rows * dim), 0.0F);
    float* row = table.data();
    const std::int64_t half = dim / 2;
    for (const float t : numbers) {
        for (std::int64_t i = 0; i < half; ++i) {
            const float exponent = static_cast<float>(-std::log(10000.0)) * static_cast<float>(i);
            const double angle = scale * (t * std::exp(exponent / static_cast<float>(half)));
            row[i] = static_cast<float>(std::cos(angle));
            row[half + i] = static_cast<float>(std::sin(angle));
        }
        row += dim;
    }
    return Tensor::of(table, {rows, dim}, device);
}

}  // namespace aerogel
