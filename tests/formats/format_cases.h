// Small arrays and messages for the tests of number formats.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/tensor.h"

namespace aerogel::testing {

inline Tensor floats(const Shape& shape, std::initializer_list<float> values) {
    Tensor tensor(DType::f32, shape);
    std::copy(values.begin(), values.end(), tensor.mutable_as<float>());
    return tensor;
}

/// The first values given, zeros after them.
inline Tensor padded(const Shape& shape, std::initializer_list<float> values) {
    Tensor tensor = Tensor::zeros(DType::f32, shape);
    std::copy(values.begin(), values.end(), tensor.mutable_as<float>());
    return tensor;
}

/// The first `count` bytes of an array, whatever its type.
inline std::vector<int> bytes_of(const Tensor& tensor, std::size_t count) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.data());
    return {bytes, bytes + count};
}

inline std::vector<float> floats_of(const Tensor& tensor, std::size_t count) {
    return {tensor.as<float>(), tensor.as<float>() + count};
}

template <typename Call>
std::string message_of(Call&& call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace aerogel::testing
