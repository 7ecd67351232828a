// MXFP4 with dual scales: decoding, checking, encoding.
#include "formats/mxfp4_dual.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "formats/mx.h"
#include "formats/mxfp4.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

std::string mxfp4_dual_problem(const QuantizedTensor& weight) {
    const std::string problem = mx_problem(weight, DType::u8, nibble_shape(weight.rows, weight.columns));
    if (!problem.empty()) return problem;
    if (weight.dual_block < kMxBlock || weight.dual_block % kMxBlock != 0) {
        return "dual_block must be a multiple of 32, got " + std::to_string(weight.dual_block);
    }
    return array_problem("dual_scale", weight.dual_scale, DType::f32,
                         {weight.rows, mx_dual_blocks(weight.columns, weight.dual_block)});
}

float dual_scale(float largest) {
    const float scale = largest / 6.0F;
    return std::isnormal(scale) ? scale : 1.0F;
}

}  // namespace

constexpr FormatRow kMxfp4DualFormat = {Format::mxfp4_dual, "mxfp4_dual", DType::u8,
                                        mxfp4_elements,     mx_scale,     mxfp4_dual_problem};

void encode_mxfp4_dual_row(float* values, std::int64_t row, QuantizedTensor& encoded) {
    auto* dual = encoded.dual_scale.mutable_as<float>() + row * encoded.dual_scale.dim(1);
    for (std::int64_t first = 0; first < encoded.columns; first += kMxDualBlock) {
        const std::int64_t count = std::min(kMxDualBlock, encoded.columns - first);
        const float scale = dual_scale(largest_magnitude(values + first, count));
        dual[first / kMxDualBlock] = scale;
        for (std::int64_t i = first; i < first + count; ++i) values[i] /= scale;
    }
    encode_mxfp4_row(values, row, encoded);
}

QuantizedTensor encode_mxfp4_dual(const TensorView& weight) {
    check_encodable("mxfp4_dual", weight);
    QuantizedTensor encoded = mx_tensor(Format::mxfp4_dual, weight.dim(0), weight.dim(1));
    const auto* in = static_cast<const float*>(weight.data);
    std::vector<float> values(static_cast<std::size_t>(encoded.columns));
    for (std::int64_t row = 0; row < encoded.rows; ++row) {
        std::copy_n(in + row * encoded.columns, encoded.columns, values.begin());
        encode_mxfp4_dual_row(values.data(), row, encoded);
    }
    return encoded;
}

}  // namespace aerogel
