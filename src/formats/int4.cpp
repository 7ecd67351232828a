// int4 weights: decoding, checking, encoding, and both forms in which files hold them.
#include "formats/int4.h"

#include <algorithm>
#include <atomic>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"

namespace aerogel {
namespace {

template <typename Number>
void int4_values(const QuantizedTensor& weight, const Slice& slice, Number* out) {
    const std::uint8_t* row = nibble_row(weight, slice.row);
    const auto one = [&](std::int64_t i) {
        out[i] = static_cast<Number>(to_int(Int4{nibble_at(row, slice.first + i)}));
    };
    std::int64_t i = 0;
    if (slice.first % 2 != 0 && slice.count > 0) one(i++);
    const std::uint8_t* pair = row + (slice.first + i) / 2;
    for (; i + 1 < slice.count; i += 2, ++pair) {
        out[i] = static_cast<Number>(((*pair & 0xF) ^ 0x8) - 8);
        out[i + 1] = static_cast<Number>(((*pair >> 4) ^ 0x8) - 8);
    }
    if (i < slice.count) one(i);
}

std::string int4_problem(const QuantizedTensor& weight) {
    return scaled_problem(weight, DType::u8, nibble_shape(weight.rows, weight.columns));
}

// Rows are tasks; the first value that is no int4 is told.
Tensor pack_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    Tensor packed(DType::u8, nibble_shape(rows, columns));
    const auto* in = stored.as<std::int8_t>();
    std::atomic<std::int64_t> bad_row = rows;
    const std::int64_t bytes = packed.dim(1);
    auto* const out = packed.mutable_as<std::uint8_t>();
    run_operation([&] {
        parallel_for(rows, [&](std::int64_t row, int) {
            const std::int8_t* values = in + row * columns;
            int outside = 0;
            for (std::int64_t i = 0; i < columns; ++i) outside |= (values[i] + 8) & ~0xF;
            put_nibbles(values, columns, out + row * bytes);
            std::int64_t first = bad_row;
            while (outside != 0 && row < first && !bad_row.compare_exchange_weak(first, row)) {
            }
        });
    });
    if (bad_row < rows) {
        const std::int8_t* values = in + bad_row * columns;
        const auto at = std::find_if(values, values + columns, [](std::int8_t x) { return x < -8 || x > 7; });
        throw InvalidArgument("[int4] data " + stored.describe() + " must be in [-8, 7], got " +
                              std::to_string(*at) + " at element " + std::to_string(at - in));
    }
    return packed;
}

bool is_bytes(const Tensor& stored) {
    return stored.defined() && (stored.dtype() == DType::i8 || stored.dtype() == DType::u8);
}

Tensor from_row_pairs(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    Tensor packed = Tensor::zeros(DType::u8, nibble_shape(rows, columns));
    const auto* in = static_cast<const std::uint8_t*>(stored.data());
    auto* const out = packed.mutable_as<std::uint8_t>();
    run_operation([&] {
        parallel_for(rows, [&](std::int64_t row, int) {
            const std::uint8_t* pairs = in + row / 2 * columns;
            for (std::int64_t column = 0; column < columns; ++column) {
                const int nibble = row % 2 == 0 ? pairs[column] & 0xF : pairs[column] >> 4;
                put_nibble(out + row * packed.dim(1), column, static_cast<std::uint8_t>(nibble));
            }
        });
    });
    return packed;
}

}  // namespace

constexpr FormatRow kInt4Format = {
    Format::int4, "int4", DType::u8, int4_values<float>, float_scale, int4_problem, int4_values<std::int8_t>};

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
        put_nibble(encoded.data.mutable_as<std::uint8_t>() + row * encoded.data.dim(1), column, code.bits);
    }
    return encoded;
}

QuantizedTensor encode_int4(const TensorView& weight, std::int64_t group_size) {
    return encode_int4(weight, minmax_scale(weight, group_size, 7.0F, kSmallestIntegerScale), Tensor());
}

Tensor read_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns) {
    // One column looks the same in two layouts; taken as a value, it is checked.
    if (is_bytes(stored) && stored.dtype() == DType::i8 && stored.shape() == Shape{rows, columns}) {
        return pack_int4(stored, rows, columns);
    }
    if (is_bytes(stored) && stored.shape() == nibble_shape(rows, columns)) return as_bytes(stored);
    if (is_bytes(stored) && rows % 2 == 0 && stored.shape() == Shape{rows / 2, columns}) {
        return from_row_pairs(stored, rows, columns);
    }
    throw InvalidArgument("[int4] data must be i8" + to_string(Shape{rows, columns}) +
                          " or, packed, u8 or i8" + to_string(nibble_shape(rows, columns)) +
                          (rows % 2 == 0 ? " or " + to_string(Shape{rows / 2, columns}) : "") + ", got " +
                          (stored.defined() ? stored.describe() : "nothing"));
}

std::int64_t int4_columns(const Tensor& stored, std::int64_t rows) {
    const bool matrix = is_bytes(stored) && stored.shape().size() == 2;
    if (matrix && rows % 2 == 0 && stored.dim(0) == rows / 2) return stored.dim(1);
    if (!matrix || stored.dim(0) != rows) {
        throw InvalidArgument("[int4] data must be i8 or u8 with " + std::to_string(rows) + " or, packed, " +
                              std::to_string(rows / 2) + " rows, got " +
                              (stored.defined() ? stored.describe() : "nothing"));
    }
    if (stored.dtype() == DType::u8) return 2 * stored.dim(1);
    const auto* values = stored.as<std::int8_t>();
    const bool bytes =
        std::all_of(values, values + stored.count(), [](std::int8_t x) { return x >= -8 && x <= 7; });
    return bytes ? stored.dim(1) : 2 * stored.dim(1);
}

Tensor write_int4(const QuantizedTensor& weight, Int4Layout layout) {
    const std::int64_t rows = weight.rows, columns = weight.columns;
    const bool by_rows = layout == Int4Layout::row_pairs;
    if (layout != Int4Layout::bytes && (by_rows ? rows : columns) % 2 != 0) {
        throw InvalidArgument("[int4] packing needs an even number of " +
                              std::string(by_rows ? "rows" : "columns") + ", got " +
                              to_string(Shape{rows, columns}));
    }
    if (layout == Int4Layout::column_pairs) {
        return {DType::i8, weight.data.shape(), weight.data.data(), std::make_shared<Tensor>(weight.data)};
    }
    Tensor bytes(DType::i8, {rows, columns});
    for (std::int64_t row = 0; row < rows; ++row) {
        int4_values(weight, {row, 0, columns}, bytes.mutable_as<std::int8_t>() + row * columns);
    }
    if (!by_rows) return bytes;
    Tensor pairs(DType::i8, {rows / 2, columns});
    for (std::int64_t i = 0; i < pairs.count(); ++i) {
        const std::int64_t even = i / columns * 2 * columns + i % columns;
        const int low = bytes.as<std::int8_t>()[even] & 0xF;
        const int high = bytes.as<std::int8_t>()[even + columns] & 0xF;
        pairs.mutable_as<std::int8_t>()[i] = static_cast<std::int8_t>(high << 4 | low);
    }
    return pairs;
}

}  // namespace aerogel
