// MXFP4 with a ceiling, given or searched.
#include "quant/algorithms/ceil_x.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
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
constexpr float kLargestCeiling = 12.0F, kStep = 0.25F;

int choose_ceil_x(std::span<const float> block, float ceiling) {
    const float largest = largest_magnitude(block.data(), static_cast<std::int64_t>(block.size()));
    const float exponent = std::ceil(std::log2(largest / ceiling + kLogFloor));
    return static_cast<int>(std::clamp(exponent, -129.0F, 125.0F));
}

constexpr std::size_t kCeilings = 25;  // 6, 6.25 .. 12
using PerCeiling = std::array<double, kCeilings>;

float ceiling_at(std::size_t index) {
    return kSmallestCeiling + kStep * static_cast<float>(index);
}

// Adds to each sum of [first, last] the error with the exponent of its ceiling, from those of both ends. All
// 25 ceilings give a block two or three exponents, falling ones, so that few errors are computed.
void add_between(std::span<const float> block, std::size_t first, std::size_t last, PerCeiling& sums) {
    const int exponent = choose_ceil_x(block, ceiling_at(first));
    if (exponent == choose_ceil_x(block, ceiling_at(last))) {
        const double error = mx_block_error(Format::mxfp4, block, exponent);
        for (std::size_t i = first; i <= last; ++i) sums[i] += error;
        return;
    }
    const std::size_t middle = (first + last) / 2;
    add_between(block, first, middle, sums);
    add_between(block, middle + 1, last, sums);
}

// Squared error of the whole weight with each ceiling.
PerCeiling errors_of(const Tensor& weight) {
    const std::int64_t rows = weight.dim(0), columns = weight.dim(1);
    std::vector<PerCeiling> errors(static_cast<std::size_t>(rows));
    parallel_for(rows, [&](std::int64_t row, int) {
        for (std::int64_t first = 0; first < columns; first += kMxBlock) {
            const std::int64_t count = std::min(kMxBlock, columns - first);
            const std::span<const float> block(weight.as<float>() + row * columns + first,
                                               static_cast<std::size_t>(count));
            add_between(block, 0, kCeilings - 1, errors[static_cast<std::size_t>(row)]);
        }
    });
    PerCeiling sums = {};
    for (const PerCeiling& row : errors) {
        for (std::size_t i = 0; i < kCeilings; ++i) sums[i] += row[i];
    }
    return sums;
}

}  // namespace

QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight, float ceiling) {
    if (!(ceiling >= kSmallestCeiling && ceiling <= kLargestCeiling)) {
        throw InvalidArgument(fmt::format("[ceil_x] the ceiling must be in [6, 12], got {}", ceiling));
    }
    return encode_mx_blocks(Format::mxfp4, float_weight("ceil_x", weight), choose_ceil_x, ceiling);
}

QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight) {
    return quantize_ceil_x_mxfp4(weight, kDefaultCeiling);
}

QuantizedTensor quantize_ceil_x_search_mxfp4(const TensorView& weight) {
    const Tensor values = float_weight("ceil_x_search", weight);
    const PerCeiling errors = errors_of(values);
    const auto best = std::min_element(errors.begin(), errors.end()) - errors.begin();  // the first of equals
    return encode_mx_blocks(Format::mxfp4, values, choose_ceil_x, ceiling_at(static_cast<std::size_t>(best)));
}

}  // namespace aerogel
