// A number is finite unless all bits of its exponent are set: integer comparisons, which compilers turn into
// vectors on every machine.
#include "core/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "base/thread_pool.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::int64_t kPiece = std::int64_t{1} << 18;  // elements that one thread looks at together

template <typename Bits>
bool all_finite(const Bits* values, std::int64_t count, Bits exponent) {
    Bits bad = 0;
    for (std::int64_t i = 0; i < count; ++i) bad |= static_cast<Bits>((values[i] & exponent) == exponent);
    return bad == 0;
}

template <typename Bits>
std::optional<std::int64_t> search(const void* data, std::int64_t count, Bits exponent) {
    const auto* values = static_cast<const Bits*>(data);
    const std::int64_t pieces = (count + kPiece - 1) / kPiece;
    std::atomic<std::int64_t> first{pieces};
    const auto look = [&](std::int64_t piece, int) {
        const std::int64_t begin = piece * kPiece;
        if (all_finite(values + begin, std::min(kPiece, count - begin), exponent)) return;
        std::int64_t known = first;
        while (piece < known && !first.compare_exchange_weak(known, piece)) {
        }
    };
    if (pieces == 1) {
        look(0, 0);
    } else if (pieces > 1) {
        parallel_for(pieces, look);
    }
    if (first == pieces) return std::nullopt;
    std::int64_t at = first * kPiece;
    while ((values[at] & exponent) != exponent) ++at;
    return at;
}

// The index of an element along every axis.
Shape place_of(std::int64_t element, const Shape& shape) {
    Shape place(shape.size());
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        place[axis] = element % shape[axis];
        element /= shape[axis];
    }
    return place;
}

}  // namespace

std::optional<std::int64_t> first_not_finite(const TensorView& tensor) {
    const std::int64_t count = tensor.count();
    switch (tensor.dtype) {
        case DType::f64:
            return search<std::uint64_t>(tensor.data, count, 0x7FF0'0000'0000'0000U);
        case DType::f32:
            return search<std::uint32_t>(tensor.data, count, 0x7F80'0000U);
        case DType::bf16:
            return search<std::uint16_t>(tensor.data, count, 0x7F80U);
        case DType::f16:
            return search<std::uint16_t>(tensor.data, count, 0x7C00U);
        case DType::f8_e5m2:
            return search<std::uint8_t>(tensor.data, count, 0x7CU);
        case DType::f8_e4m3:  // no infinities: NaN alone has all bits set but the sign
            return search<std::uint8_t>(tensor.data, count, 0x7FU);
        default:
            return std::nullopt;
    }
}

std::string finite_problem(const std::string& name, const TensorView& tensor) {
    const auto at = first_not_finite(tensor);
    if (!at) return {};
    const auto offset = static_cast<std::size_t>(*at) * size_of(tensor.dtype);
    const auto* element = static_cast<const std::byte*>(tensor.data) + offset;
    const Tensor value = Tensor(tensor.dtype, {1}, element, nullptr).to(DType::f64);
    return fmt::format("{} {} is not finite: element {} is {}", in_quotes(name), tensor.describe(),
                       to_string(place_of(*at, tensor.shape)), value.as<double>()[0]);
}

}  // namespace aerogel
