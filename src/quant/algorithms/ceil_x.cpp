// MXFP4 with a ceiling, given or searched.
#include "quant/algorithms/ceil_x.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/mx.h"
#include "formats/scaled.h"
#include "quant/algorithms/mx_blocks.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

constexpr float kLogFloor = 9.6e-7F;
constexpr float kSmallestCeiling = 6.0F;
constexpr float kLargestCeiling = 12.0F;
constexpr float kStep = 0.25F;

int choose(std::span<const float> block, float ceiling) {
    const float largest = largest_magnitude(block.data(), static_cast<std::int64_t>(block.size()));
    const float exponent = std::ceil(std::log2(largest / ceiling + kLogFloor));
    return static_cast<int>(std::clamp(exponent, -129.0F, 125.0F));
}

double error_of(const Tensor& weight, float ceiling) {
    const std::int64_t rows = weight.dim(0), columns = weight.dim(1);
    std::vector<double> errors(static_cast<std::size_t>(rows));
    parallel_for(rows, [&](std::int64_t row, int) {
        for (std::int64_t first = 0; first < columns; first += kMxBlock) {
            const std::int64_t count = std::min(kMxBlock, columns - first);
            const std::span<const float> block(weight.as<float>() + row * columns + first,
                                               static_cast<std::size_t>(count));
            errors[static_cast<std::size_t>(row)] +=
                mx_block_error(Format::mxfp4, block, choose(block, ceiling));
        }
    });
    return std::accumulate(errors.begin(), errors.end(), 0.0);
}

}  // namespace

QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight, float ceiling) {
    if (!(ceiling >= kSmallestCeiling && ceiling <= kLargestCeiling)) {
        throw InvalidArgument(fmt::format("[ceil_x] the ceiling must be in [6, 12], got {}", ceiling));
    }
    return encode_mx_blocks(Format::mxfp4, float_weight("ceil_x", weight), choose, ceiling);
}

QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight) {
    return quantize_ceil_x_mxfp4(weight, kDefaultCeiling);
}

QuantizedTensor quantize_ceil_x_search_mxfp4(const TensorView& weight) {
    const Tensor values = float_weight("ceil_x_search", weight);
    float best = kSmallestCeiling;
    double smallest = std::numeric_limits<double>::infinity();
    for (float ceiling = kSmallestCeiling; ceiling <= kLargestCeiling; ceiling += kStep) {
        const double error = error_of(values, ceiling);
        if (error < smallest) {
            smallest = error;
            best = ceiling;
        }
    }
    return encode_mx_blocks(Format::mxfp4, values, choose, best);
}

}  // namespace aerogel
