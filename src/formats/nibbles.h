// Two columns per byte, the even one in the low nibble; rows start on a byte, and the last high nibble of a
// row with an odd number of columns is 0.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

inline Shape nibble_shape(std::int64_t rows, std::int64_t columns) {
    return {rows, (columns + 1) / 2};
}

inline const std::uint8_t* nibble_row(const QuantizedTensor& weight, std::int64_t row) {
    return static_cast<const std::uint8_t*>(weight.data.data()) + row * ((weight.columns + 1) / 2);
}

inline std::uint8_t nibble_at(const std::uint8_t* row, std::int64_t column) {
    return static_cast<std::uint8_t>(column % 2 == 0 ? row[column / 2] & 0xF : row[column / 2] >> 4);
}

/// Adds a nibble to a row of zeros.
inline void put_nibble(std::uint8_t* row, std::int64_t column, std::uint8_t nibble) {
    const int shift = column % 2 == 0 ? 0 : 4;
    row[column / 2] = static_cast<std::uint8_t>(row[column / 2] | (nibble & 0xF) << shift);
}

/// Writes a row of values in -8 .. 7. Pairs are read as one number, which compilers turn into vectors.
inline void put_nibbles(const std::int8_t* values, std::int64_t columns, std::uint8_t* row) {
    static_assert(std::endian::native == std::endian::little);
    for (std::int64_t i = 0; i < columns / 2; ++i) {
        std::uint16_t pair = 0;
        std::memcpy(&pair, values + 2 * i, sizeof(pair));
        row[i] = static_cast<std::uint8_t>((pair & 0xF) | (pair >> 4 & 0xF0));
    }
    if (columns % 2 != 0) row[columns / 2] = static_cast<std::uint8_t>(values[columns - 1] & 0xF);
}

/// Bytes under the type u8, whatever their signedness; shares the storage.
inline Tensor as_bytes(const Tensor& tensor) {
    return {DType::u8, tensor.shape(), tensor.data(), std::make_shared<Tensor>(tensor)};
}

}  // namespace aerogel
