// Tensor storage, shapes and dtype names. Conversions live in convert.cpp.
#include "aerogel/tensor.h"

#include <array>
#include <limits>
#include <string>
#include <utility>

#include "aerogel/error.h"
#include "core/device_memory.h"

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

const DTypeRow& row_of(DType dtype) {
    const auto number = static_cast<std::size_t>(dtype);
    if (number < kDTypes.size()) return kDTypes[number];
    throw InvalidArgument("[tensor] there is no element type number " + std::to_string(number));
}

}  // namespace

std::size_t size_of(DType dtype) {
    return row_of(dtype).size;
}
std::string_view to_string(DType dtype) {
    return row_of(dtype).name;
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

std::int64_t size_along(const Shape& shape, std::size_t axis) {
    if (axis < shape.size()) return shape[axis];
    throw InvalidArgument("[tensor] shape " + to_string(shape) + " has no axis " + std::to_string(axis));
}

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? "," : "") + std::to_string(size);
    return text + "]";
}

bool TensorView::contiguous() const {
    if (strides.empty()) return true;
    if (strides.size() != shape.size()) return false;
    std::int64_t expected = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        if (shape[axis] != 1 && strides[axis] != expected) return false;
        if (__builtin_mul_overflow(expected, shape[axis], &expected)) return false;
    }
    return true;
}

std::string Device::describe() const {
    return kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(index);
}

std::string TensorView::describe() const {
    return std::string(to_string(dtype)) + to_string(shape);
}

void TensorView::expect(DType wanted) const {
    if (dtype == wanted) return;
    throw InvalidArgument("[tensor] expected " + std::string(to_string(wanted)) + ", got " + describe());
}

Tensor::Tensor(DType dtype, Shape shape, Device device)
    : dtype_(dtype), shape_(std::move(shape)), device_(device) {
    const auto elements = static_cast<std::size_t>(element_count(shape_));
    if (elements > std::numeric_limits<std::size_t>::max() / 16) {
        throw InvalidArgument("[tensor] " + describe() + " is too large");
    }
    const DeviceMemory& memory = memory_of(device);
    const std::size_t size = elements * size_of(dtype);
    mutable_data_ = memory.allocate(device, size);
    if (mutable_data_ == nullptr)
        throw Error("[tensor] no memory for " + describe() +
                    (device == Device::cpu ? "" : " on " + device.describe()));
    owner_ =
        std::shared_ptr<void>(mutable_data_, [=, free = memory.free](void* p) { free(device, p, size); });
    data_ = mutable_data_;
}

Tensor::Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), data_(data), mutable_data_(data), owner_(std::move(owner)) {}

Tensor::Tensor(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner)
    : dtype_(dtype), shape_(std::move(shape)), data_(data), owner_(std::move(owner)) {}

Tensor::Tensor(Tensor&& other) noexcept
    : dtype_(other.dtype_),
      shape_(std::exchange(other.shape_, {})),
      data_(std::exchange(other.data_, nullptr)),
      mutable_data_(std::exchange(other.mutable_data_, nullptr)),
      owner_(std::exchange(other.owner_, nullptr)),
      device_(other.device_) {}

Tensor& Tensor::operator=(Tensor&& other) noexcept {
    Tensor taken(std::move(other));
    std::swap(dtype_, taken.dtype_);
    std::swap(shape_, taken.shape_);
    std::swap(data_, taken.data_);
    std::swap(mutable_data_, taken.mutable_data_);
    std::swap(owner_, taken.owner_);
    std::swap(device_, taken.device_);
    return *this;
}

void* Tensor::mutable_data() {
    if (mutable_data_ == nullptr && data_ != nullptr)
        throw InvalidArgument("[tensor] " + describe() + " is read-only");
    return mutable_data_;
}

Tensor Tensor::zeros(DType dtype, Shape shape, Device device) {
    Tensor tensor(dtype, std::move(shape), device);
    memory_of(device).clear(device, tensor.mutable_data(), tensor.bytes());
    return tensor;
}

Tensor Tensor::of(std::span<const float> values, Shape shape, Device device) {
    if (element_count(shape) != static_cast<std::int64_t>(values.size())) {
        throw InvalidArgument("[tensor] " + std::to_string(values.size()) + " values do not fill " +
                              to_string(shape));
    }
    Tensor tensor(DType::f32, std::move(shape), device);
    memory_of(device).from_host(device, tensor.mutable_data(), values.data(), tensor.bytes());
    return tensor;
}

std::vector<float> Tensor::values() const {
    view().expect(DType::f32);
    need_values();
    std::vector<float> values(static_cast<std::size_t>(count()));
    memory_of(device_).to_host(device_, values.data(), data_, bytes());
    return values;
}

Tensor Tensor::reshaped(Shape shape) const {
    if (element_count(shape) != count()) {
        throw InvalidArgument("[reshape] " + describe() + " does not have as many elements as " +
                              to_string(shape));
    }
    Tensor result = *this;
    result.shape_ = std::move(shape);
    return result;
}

void Tensor::need_values() const {
    if (!defined()) throw InvalidArgument("[tensor] there are no values to copy: the tensor is not defined");
}

Tensor Tensor::clone() const {
    need_values();
    Tensor copy(dtype_, shape_, device_);
    memory_of(device_).copy(device_, copy.mutable_data(), data_, bytes());
    return copy;
}

Tensor Tensor::to(Device device) const {
    if (device == device_) return *this;
    need_values();
    const bool from_host = device_ == Device::cpu;
    if (!from_host && device != Device::cpu) return to(Device::cpu).to(device);
    Tensor copy(dtype_, shape_, device);
    if (from_host) {
        memory_of(device).from_host(device, copy.mutable_data(), data_, bytes());
    } else {
        memory_of(device_).to_host(device_, copy.mutable_data(), data_, bytes());
    }
    return copy;
}

}  // namespace aerogel
