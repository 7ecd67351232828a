// int4 weights: decoding, checking, encoding, and both forms in which files hold them.
#include "formats/int4.h"

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

void decode_int4(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const Groups groups(weight);
    const auto* data =
        static_cast<const std::uint8_t*>(weight.data.data()) + row * ((weight.columns + 1) / 2);
    const auto* scale = static_cast<const float*>(weight.scale.data()) + row * groups.count;
    const auto* offset = static_cast<const float*>(weight.offset.data());
    for (std::int64_t i = 0; i < weight.columns; ++i) {
        const std::int64_t group = i / groups.width;
        const float zero = offset == nullptr ? 0.0F : offset[row * groups.count + group];
        out[i] = (static_cast<float>(to_int(Int4{nibble_at(data, i)})) - zero) * scale[group];
    }
}

std::string int4_problem(const QuantizedTensor& weight) {
    return scaled_problem(weight, DType::u8, nibble_shape(weight.rows, weight.columns));
}

Tensor pack_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    Tensor packed = Tensor::zeros(DType::u8, nibble_shape(rows, columns));
    const auto* in = stored.as<std::int8_t>();
    for (std::int64_t i = 0; i < rows * columns; ++i) {
        if (in[i] < -8 || in[i] > 7) {
            throw InvalidArgument("[int4] data " + stored.describe() + " must be in [-8, 7], got " +
                                  std::to_string(in[i]) + " at element " + std::to_string(i));
        }
        auto* row = packed.as<std::uint8_t>() + i / columns * packed.dim(1);
        put_nibble(row, i % columns, static_cast<std::uint8_t>(in[i]));
    }
    return packed;
}

}  // namespace

constexpr FormatRow kInt4Format = {Format::int4, "int4", DType::u8, decode_int4, int4_problem};

QuantizedTensor encode_int4(const TensorView& weight, const Tensor& scale, const Tensor& offset) {
    check_encodable("int4", weight);
    QuantizedTensor encoded = scaled_tensor(Format::int4, weight, scale, offset);
    encoded.data = Tensor::zeros(DType::u8, nibble_shape(encoded.rows, encoded.columns));
    check_scales("int4", encoded, weight, int4_problem(encoded));
    const Groups groups(encoded);
    const auto* in = static_cast<const float*>(weight.data);
    for (std::int64_t i = 0; i < encoded.rows * encoded.columns; ++i) {
        const std::int64_t row = i / encoded.columns;
        const std::int64_t column = i % encoded.columns;
        const std::int64_t group = row * groups.count + column / groups.width;
        const float zero = offset.defined() ? offset.as<float>()[group] : 0.0F;
        const Int4 code = to_int4(in[i] / scale.as<float>()[group] + zero);
        put_nibble(encoded.data.as<std::uint8_t>() + row * encoded.data.dim(1), column, code.bits);
    }
    return encoded;
}

QuantizedTensor encode_int4(const TensorView& weight, std::int64_t group_size) {
    return encode_int4(weight, minmax_scale(weight, group_size, 7.0F, kSmallestIntegerScale), Tensor());
}

Tensor read_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    const bool bytes = stored.defined() && (stored.dtype() == DType::i8 || stored.dtype() == DType::u8);
    // One column looks the same in both forms; taken as a value, it is checked.
    if (bytes && stored.dtype() == DType::i8 && stored.shape() == Shape{rows, columns}) {
        return pack_int4(stored, rows, columns);
    }
    if (bytes && stored.shape() == nibble_shape(rows, columns)) return as_bytes(stored);
    throw InvalidArgument("[int4] data must be i8" + to_string(Shape{rows, columns}) +
                          " or, packed, u8 or i8" + to_string(nibble_shape(rows, columns)) + ", got " +
                          (stored.defined() ? stored.describe() : "nothing"));
}

}  // namespace aerogel
