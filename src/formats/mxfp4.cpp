// MXFP4: decoding, checking, encoding, and both forms in which files hold it. Rounding is done in float32, as
// the exporters of such files do it, so that the bytes are theirs.
#include "formats/mxfp4.h"

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "formats/mx.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr int kLargestExponent = 2;
constexpr float kLogFloor = 9.6e-7F;

std::string mxfp4_problem(const QuantizedTensor& weight) {
    return mx_problem(weight, DType::u8, nibble_shape(weight.rows, weight.columns));
}

int block_exponent(float largest) {
    const float exponent = std::floor(std::log2(largest / 0.875F + kLogFloor));
    return static_cast<int>(std::min(exponent, 127.0F)) - kLargestExponent;
}

// A negative value that rounds to zero becomes -0 (code 8); 0 and -0 become +0.
Float4E2M1 encode_element(float value, int exponent) {
    const float magnitude = std::ldexp(std::abs(value), -exponent);
    if (value == 0) return {0};
    return to_float4_e2m1(std::copysign(nearest_e2m1(magnitude), value));
}

Tensor pack_values(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    Tensor packed = Tensor::zeros(DType::u8, nibble_shape(rows, columns));
    const auto* in = stored.as<Float8E4M3>();
    for (std::int64_t i = 0; i < rows * columns; ++i) {
        const float value = to_float(in[i]);
        const Float4E2M1 code = to_float4_e2m1(value);
        if (!(to_float(code) == value)) {
            throw InvalidArgument("[mxfp4] data " + stored.describe() +
                                  " must hold 0, .5, 1, 1.5, 2, 3, 4, 6 or their negatives, got " +
                                  std::to_string(value) + " at element " + std::to_string(i));
        }
        put_nibble(packed.as<std::uint8_t>() + i / columns * packed.dim(1), i % columns, code.bits);
    }
    return packed;
}

}  // namespace

constexpr FormatRow kMxfp4Format = {Format::mxfp4, "mxfp4", DType::u8, decode_mxfp4_row, mxfp4_problem};

void decode_mxfp4_row(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const auto* data =
        static_cast<const std::uint8_t*>(weight.data.data()) + row * ((weight.columns + 1) / 2);
    const auto* scale = static_cast<const Float8E8M0*>(weight.scale.data()) + row * mx_blocks(weight.columns);
    for (std::int64_t i = 0; i < weight.columns; ++i) {
        out[i] = to_float(Float4E2M1{nibble_at(data, i)}) * to_float(scale[i / kMxBlock]);
    }
}

void encode_mxfp4_row(const float* values, std::int64_t row, QuantizedTensor& encoded) {
    auto* data = encoded.data.as<std::uint8_t>() + row * encoded.data.dim(1);
    auto* scale = encoded.scale.as<std::uint8_t>() + row * encoded.scale.dim(1);
    for (std::int64_t first = 0; first < encoded.columns; first += kMxBlock) {
        const std::int64_t count = std::min(kMxBlock, encoded.columns - first);
        const int exponent = block_exponent(largest_magnitude(values + first, count));
        scale[first / kMxBlock] = static_cast<std::uint8_t>(exponent + 127);
        for (std::int64_t i = first; i < first + count; ++i) {
            put_nibble(data, i, encode_element(values[i], exponent).bits);
        }
    }
}

QuantizedTensor encode_mxfp4(const TensorView& weight) {
    check_encodable("mxfp4", weight);
    QuantizedTensor encoded =
        mx_tensor(Format::mxfp4, weight, DType::u8, nibble_shape(weight.dim(0), weight.dim(1)));
    const auto* in = static_cast<const float*>(weight.data);
    for (std::int64_t row = 0; row < encoded.rows; ++row) {
        encode_mxfp4_row(in + row * encoded.columns, row, encoded);
    }
    return encoded;
}

std::int64_t mxfp4_columns(const Tensor& stored) {
    const bool matrix = stored.defined() && stored.shape().size() == 2;
    if (matrix && stored.dtype() == DType::f8_e4m3) return stored.dim(1);
    if (matrix && (stored.dtype() == DType::u8 || stored.dtype() == DType::i8)) return 2 * stored.dim(1);
    throw InvalidArgument("[mxfp4] data must be f8_e4m3[rows,columns] or u8 or i8[rows,columns/2], got " +
                          (stored.defined() ? stored.describe() : "nothing"));
}

Tensor read_mxfp4(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    if (stored.defined() && stored.dtype() == DType::f8_e4m3 && stored.shape() == Shape{rows, columns}) {
        return pack_values(stored, rows, columns);
    }
    const bool bytes = stored.defined() && (stored.dtype() == DType::u8 || stored.dtype() == DType::i8);
    if (bytes && stored.shape() == nibble_shape(rows, columns)) return as_bytes(stored);
    throw InvalidArgument("[mxfp4] data must be f8_e4m3" + to_string(Shape{rows, columns}) +
                          " or, packed, u8 or i8" + to_string(nibble_shape(rows, columns)) + ", got " +
                          (stored.defined() ? stored.describe() : "nothing"));
}

}  // namespace aerogel
