// MXFP4 exponents for a largest element of 6 or 4.
#include "quant/algorithms/four_over_six.h"

#include <algorithm>
#include <cmath>

#include "formats/scaled.h"
#include "quant/algorithms/mx_blocks.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

// Denormal maxima would give exponents that no scale byte holds; the clamp comes first because their quotient
// can be 0 and its logarithm -inf.
int nearest_exponent(float largest, float target) {
    constexpr float kTie = 1e-6F;
    const float exponent = std::clamp(std::log2(largest / target), -140.0F, 127.0F);
    const float down = std::floor(exponent);
    const float fraction = exponent - down;
    const bool even = std::fmod(down, 2.0F) == 0.0F;
    const bool up = std::fabs(fraction - 0.5F) <= kTie ? even : fraction > 0.5F;
    return std::clamp(static_cast<int>(down) + (up ? 1 : 0), -129, 125);
}

int choose_four_over_six(std::span<const float> block, float) {
    const float largest = largest_magnitude(block.data(), static_cast<std::int64_t>(block.size()));
    if (largest == 0) return 0;
    const int six = nearest_exponent(largest, 6.0F);
    const int four = nearest_exponent(largest, 4.0F);
    if (six == four) return six;
    return mx_block_error(Format::mxfp4, block, six) <= mx_block_error(Format::mxfp4, block, four) ? six
                                                                                                   : four;
}

}  // namespace

QuantizedTensor quantize_four_over_six_mxfp4(const TensorView& weight) {
    return encode_mx_blocks(Format::mxfp4, float_weight("fouroversix", weight), choose_four_over_six, 0.0F);
}

}  // namespace aerogel
