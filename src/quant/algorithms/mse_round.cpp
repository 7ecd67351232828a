// MXFP8 exponents chosen by error.
#include "quant/algorithms/mse_round.h"

#include <algorithm>
#include <cmath>

#include "formats/scaled.h"
#include "quant/algorithms/mx_blocks.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

constexpr int kLargestExponent = 8;
constexpr int kSmallestShared = -127;

int choose_mse_round(std::span<const float> block, float) {
    const float largest = largest_magnitude(block.data(), static_cast<std::int64_t>(block.size()));
    if (largest == 0) return kSmallestShared;
    const float exponent = std::log2(largest);
    const int down = std::max(static_cast<int>(std::floor(exponent)) - kLargestExponent, kSmallestShared);
    const int up = std::max(static_cast<int>(std::ceil(exponent)) - kLargestExponent, kSmallestShared);
    if (up == down) return down;
    return mx_block_error(Format::mxfp8, block, up) < mx_block_error(Format::mxfp8, block, down) ? up : down;
}

}  // namespace

QuantizedTensor quantize_mse_round_mxfp8(const TensorView& weight) {
    return encode_mx_blocks(Format::mxfp8, float_weight("mse_round", weight), choose_mse_round, 0.0F);
}

}  // namespace aerogel
