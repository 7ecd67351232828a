// Tensor storage, shapes and dtype names. Conversions live in convert.cpp.
#include "aerogel/tensor.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/huge_pages.h"

namespace aerogel {
namespace {

struct DTypeRow {
    std::string_view name;
    std::size_t size;
};

constexpr std::array<DTypeRow, 16> kDTypes = {{{"bool", 1},
                                               {"u8", 1},
                                               {"i8", 1},
                                               {"f8_e4m3", 1},
                                               {"f8_e5m2", 1},
                                               {"f8_e8m0", 1},
                                               {"u16", 2},
                                               {"i16", 2},
                                               {"f16", 2},
                                               {"bf16", 2},
                                               {"u32", 4},
                                               {"i32", 4},
                                               {"f32", 4},
                                               {"u64", 8},
                                               {"i64", 8},
                                               {"f64", 8}}};

[[noreturn]] void wrong_type(std::string_view wanted, const TensorView& view) {
    throw InvalidArgument("[tensor] expected " + std::string(wanted) + ", got " + view.describe());
}

}  // namespace

std::size_t size_of(DType dtype) {
    return kDTypes.at(static_cast<std::size_t>(dtype)).size;
}
std::string_view to_string(DType dtype) {
    return kDTypes.at(static_cast<std::size_t>(dtype)).name;
}

std::int64_t element_count(const Shape& shape) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) {
        if (size < 0) throw InvalidArgument("[tensor] negative size in shape " + to_string(shape));
        if (__builtin_mul_overflow(count, size, &count)) {
            throw InvalidArgument("[tensor] the element count of shape " + to_string(shape) + " overflows");
        }
    }
    return count;
}

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
    return text + "]";
}

bool TensorView::contiguous() const {
    if (strides.empty()) return true;
    std::int64_t expected = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        if (shape[axis] != 1 && strides[axis] != expected) return false;
        expected *= shape[axis];
    }
    return true;
}

std::string TensorView::describe() const {
    return std::string(to_string(dtype)) + to_string(shape);
}

#define AEROGEL_TYPED_ACCESS(Type, kind)                    \
    template <>                                             \
    Type* TensorView::as<Type>() const {                    \
        if (dtype != DType::kind) wrong_type(#kind, *this); \
        return static_cast<Type*>(data);                    \
    }
AEROGEL_TYPED_ACCESS(bool, boolean)
AEROGEL_TYPED_ACCESS(std::uint8_t, u8)
AEROGEL_TYPED_ACCESS(std::int8_t, i8)
AEROGEL_TYPED_ACCESS(Float8E4M3, f8_e4m3)
AEROGEL_TYPED_ACCESS(Float8E5M2, f8_e5m2)
AEROGEL_TYPED_ACCESS(Float8E8M0, f8_e8m0)
AEROGEL_TYPED_ACCESS(std::uint16_t, u16)
AEROGEL_TYPED_ACCESS(std::int16_t, i16)
AEROGEL_TYPED_ACCESS(Float16, f16)
AEROGEL_TYPED_ACCESS(BFloat16, bf16)
AEROGEL_TYPED_ACCESS(std::uint32_t, u32)
AEROGEL_TYPED_ACCESS(std::int32_t, i32)
AEROGEL_TYPED_ACCESS(float, f32)
AEROGEL_TYPED_ACCESS(std::uint64_t, u64)
AEROGEL_TYPED_ACCESS(std::int64_t, i64)
AEROGEL_TYPED_ACCESS(double, f64)
#undef AEROGEL_TYPED_ACCESS

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
    constexpr std::size_t kAlignment = 64;
    const auto elements = static_cast<std::size_t>(element_count(shape_));
    if (elements > std::numeric_limits<std::size_t>::max() / 16) {
        throw InvalidArgument("[tensor] " + describe() + " is too large");
    }
    const std::size_t size = (elements * size_of(dtype) + kAlignment) / kAlignment * kAlignment;
    data_ = std::aligned_alloc(kAlignment, size);
    if (data_ == nullptr) throw Error("[tensor] no memory for " + describe());
    prefer_huge_pages(data_, size);
    owner_ = std::shared_ptr<const void>(data_, [](const void* p) { std::free(const_cast<void*>(p)); });
}

Tensor::Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), data_(data), owner_(std::move(owner)) {}

Tensor Tensor::zeros(DType dtype, Shape shape) {
    Tensor tensor(dtype, std::move(shape));
    std::memset(tensor.data(), 0, tensor.bytes());
    return tensor;
}

Tensor Tensor::reshaped(Shape shape) const {
    if (element_count(shape) != count()) {
        throw InvalidArgument("[reshape] " + describe() + " does not have as many elements as " +
                              to_string(shape));
    }
    return {dtype_, std::move(shape), data_, owner_};
}

Tensor Tensor::clone() const {
    Tensor copy(dtype_, shape_);
    if (bytes() != 0) std::memcpy(copy.data(), data_, bytes());
    return copy;
}

}  // namespace aerogel
