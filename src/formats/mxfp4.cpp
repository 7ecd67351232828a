// MXFP4: decoding, checking, encoding, and both forms in which files hold it. Rounding is done in float32, as
// the exporters of such files do it, so that the bytes are theirs.
#include "formats/mxfp4.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/mx.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

constexpr int kMxfp4LargestExponent = 2;
constexpr float kLogFloor = 9.6e-7F;

std::string mxfp4_problem(const QuantizedTensor& weight) {
    return mx_problem(weight, DType::u8, nibble_shape(weight.rows, weight.columns));
}

int mxfp4_exponent(float largest) {
    const float exponent = std::floor(std::log2(largest / 0.875F + kLogFloor));
    return static_cast<int>(std::min(exponent, 127.0F)) - kMxfp4LargestExponent;
}

// 2^exponent of a normal number.
float power_of_two(int exponent) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

// Codes of nearest_e2m1(|value| / 2^exponent), without branches so that it becomes vector code: the
// magnitudes 0 .. 2 lie 0.5 apart, 2 .. 4 lie 1 apart, 4 .. 6 lie 2 apart. A negative value that rounds to
// zero becomes -0 (code 8); 0 and -0 become +0.
void encode_block(const float* values, std::int64_t count, int exponent, std::uint8_t* codes) {
    const float inverse = power_of_two(-exponent);  // exponents are in [-22, 125]
    for (std::int64_t i = 0; i < count; ++i) {
        const float magnitude = std::abs(values[i]) * inverse;
        const int two = magnitude >= 2, four = magnitude >= 4, negative = values[i] < 0;
        const float per_step = 2.0F - static_cast<float>(two) - 0.5F * static_cast<float>(four);
        const float half_up = magnitude * per_step + 0.5F;
        const int code = static_cast<int>(half_up) + 2 * (two + four);
        codes[i] = static_cast<std::uint8_t>(std::min(code, 7) + 8 * negative);
    }
}

// What each byte stands for, the low nibble first.
using Pair = std::array<float, 2>;
std::array<Pair, 256> make_pairs() {
    std::array<Pair, 256> pairs;
    for (int byte = 0; byte < 256; ++byte) {
        const auto low = static_cast<std::uint8_t>(byte & 0xF), high = static_cast<std::uint8_t>(byte >> 4);
        pairs[static_cast<std::size_t>(byte)] = {to_float(Float4E2M1{low}), to_float(Float4E2M1{high})};
    }
    return pairs;
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
        put_nibble(packed.mutable_as<std::uint8_t>() + i / columns * packed.dim(1), i % columns, code.bits);
    }
    return packed;
}

}  // namespace

constexpr FormatRow kMxfp4Format = {Format::mxfp4,  "mxfp4",  DType::u8,
                                    mxfp4_elements, mx_scale, mxfp4_problem};

void mxfp4_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    static const std::array<Pair, 256> pairs = make_pairs();
    const std::uint8_t* row = nibble_row(weight, slice.row);
    for (std::int64_t i = 0; i < slice.count; ++i) {
        const std::int64_t column = slice.first + i;
        out[i] = pairs[row[column / 2]][static_cast<std::size_t>(column % 2)];
    }
}

void encode_mxfp4_row(const float* values, std::int64_t row, QuantizedTensor& encoded) {
    auto* data = encoded.data.mutable_as<std::uint8_t>() + row * encoded.data.dim(1);
    auto* scale = encoded.scale.mutable_as<std::uint8_t>() + row * encoded.scale.dim(1);
    std::array<std::uint8_t, kMxBlock> codes;
    for (std::int64_t first = 0; first < encoded.columns; first += kMxBlock) {
        const std::int64_t count = std::min(kMxBlock, encoded.columns - first);
        const int exponent = mxfp4_exponent(largest_magnitude(values + first, count));
        scale[first / kMxBlock] = static_cast<std::uint8_t>(exponent + 127);
        codes.fill(0);
        encode_block(values + first, count, exponent, codes.data());
        std::uint8_t* bytes = data + first / 2;
        for (std::int64_t i = 0; i < (count + 1) / 2; ++i) {
            const auto at = static_cast<std::size_t>(2 * i);
            bytes[i] = static_cast<std::uint8_t>(codes[at] | codes[at + 1] << 4);
        }
    }
}

QuantizedTensor encode_mxfp4(const TensorView& weight) {
    check_encodable("mxfp4", weight);
    QuantizedTensor encoded = mx_tensor(Format::mxfp4, weight.dim(0), weight.dim(1));
    const auto* in = static_cast<const float*>(weight.data);
    parallel_for(encoded.rows,
                 [&](std::int64_t row, int) { encode_mxfp4_row(in + row * encoded.columns, row, encoded); });
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
