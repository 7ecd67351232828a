// Tensor::to: every element type into every other, rounded once. Narrowing goes over float; where
// the source holds more bits than a float, it is rounded to odd first, so that the second rounding
// gives what a single one would (Boldo and Melquiond, "When double rounding is odd", 2005).
#include <bit>
#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/tensor.h"

namespace aerogel {
namespace {

template <typename T>
concept Arithmetic = std::is_arithmetic_v<T>;

template <Arithmetic T>
T widened(T x) {
    return x;
}
template <typename T>
requires(!Arithmetic<T>) float widened(T x) {
    return to_float(x);
}

template <Arithmetic T>
float rounded_to_odd(T x) {
    if constexpr (std::is_same_v<T, float> || sizeof(T) < sizeof(float)) {
        return static_cast<float>(x);
    } else {
        const auto nearest = static_cast<float>(x);
        const auto exact = static_cast<long double>(x);  // 64 mantissa bits hold every integer and double
        if (std::isnan(nearest) || static_cast<long double>(nearest) == exact) return nearest;
        auto bits = std::bit_cast<std::uint32_t>(nearest);
        if (std::fabs(static_cast<long double>(nearest)) > std::fabs(exact)) --bits;  // towards zero
        return std::bit_cast<float>(bits | 1U);
    }
}

template <std::integral Integer, std::floating_point Real>
Integer to_integer(Real x) {
    if (std::isnan(x)) return 0;
    // The bounds as Real: the upper one may round up to 2^k, then "below it" is the test.
    constexpr auto kLow = static_cast<Real>(std::numeric_limits<Integer>::min());
    constexpr auto kHigh = static_cast<Real>(std::numeric_limits<Integer>::max());
    const Real rounded = std::nearbyint(x);
    if (rounded <= kLow) return std::numeric_limits<Integer>::min();
    if (rounded >= kHigh) return std::numeric_limits<Integer>::max();
    return static_cast<Integer>(rounded);
}

template <std::integral To, std::integral From>
To clamp_integer(From x) {
    if constexpr (std::is_same_v<From, bool>) {
        return static_cast<To>(x);
    } else {
        if (std::cmp_less(x, std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
        if (std::cmp_greater(x, std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
        return static_cast<To>(x);
    }
}

template <typename To, Arithmetic From>
To convert(From x) {
    if constexpr (std::is_same_v<To, From>) {
        return x;
    } else if constexpr (std::is_same_v<To, bool>) {
        return x != From{0};
    } else if constexpr (std::floating_point<To>) {
        return static_cast<To>(x);
    } else if constexpr (std::integral<To> && std::integral<From>) {
        return clamp_integer<To>(x);
    } else if constexpr (std::integral<To>) {
        return to_integer<To>(x);
    } else if constexpr (std::is_same_v<To, BFloat16>) {
        return to_bfloat16(rounded_to_odd(x));
    } else if constexpr (std::is_same_v<To, Float16>) {
        return to_float16(rounded_to_odd(x));
    } else if constexpr (std::is_same_v<To, Float8E4M3>) {
        return to_float8_e4m3(rounded_to_odd(x));
    } else {
        static_assert(std::is_same_v<To, Float8E5M2>);
        return to_float8_e5m2(rounded_to_odd(x));
    }
}

// Calls f(T{}) with the C++ type of the dtype.
template <typename F>
void with_type(DType dtype, F&& f) {
    switch (dtype) {
        case DType::boolean:
            return f(bool{});
        case DType::u8:
            return f(std::uint8_t{});
        case DType::i8:
            return f(std::int8_t{});
        case DType::f8_e4m3:
            return f(Float8E4M3{});
        case DType::f8_e5m2:
            return f(Float8E5M2{});
        case DType::f8_e8m0:
            return f(Float8E8M0{});
        case DType::u16:
            return f(std::uint16_t{});
        case DType::i16:
            return f(std::int16_t{});
        case DType::f16:
            return f(Float16{});
        case DType::bf16:
            return f(BFloat16{});
        case DType::u32:
            return f(std::uint32_t{});
        case DType::i32:
            return f(std::int32_t{});
        case DType::f32:
            return f(float{});
        case DType::u64:
            return f(std::uint64_t{});
        case DType::i64:
            return f(std::int64_t{});
        case DType::f64:
            return f(double{});
    }
}

// A file may hold any byte for a truth; read as `bool`, other bytes than 0 and 1 are undefined.
template <typename From>
auto element(const void* from, std::size_t i) {
    if constexpr (std::is_same_v<From, bool>) {
        return static_cast<const std::uint8_t*>(from)[i] != 0;
    } else {
        return widened(static_cast<const From*>(from)[i]);
    }
}

template <typename From, typename To>
void convert_all(const void* from, void* to, std::size_t count) {
    auto* target = static_cast<To*>(to);
    for (std::size_t i = 0; i < count; ++i) target[i] = convert<To>(element<From>(from, i));
}

}  // namespace

Tensor Tensor::to(DType dtype) const {
    if (dtype == dtype_) return clone();
    if (device_ != Device::cpu) return to(Device::cpu).to(dtype).to(device_);
    if (dtype == DType::f8_e8m0) {
        throw Unsupported("[to] f8_e8m0 holds scales only, nothing is converted to it (x " + describe() +
                          ")");
    }
    need_values();
    Tensor result(dtype, shape_);
    const auto elements = static_cast<std::size_t>(count());
    with_type(dtype_, [&](auto from) {
        with_type(dtype, [&](auto to) {
            using From = decltype(from);
            using To = decltype(to);
            if constexpr (!std::is_same_v<To, Float8E8M0>) {
                convert_all<From, To>(data_, result.mutable_data(), elements);
            }
        });
    });
    return result;
}

}  // namespace aerogel
