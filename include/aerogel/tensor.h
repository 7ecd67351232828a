// Dense arrays: DType, Shape, Tensor (shares its storage) and TensorView (borrows it).
// A Tensor may own memory it allocated or keep a mapped file alive; a view owns nothing.
// layer: core
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

struct BFloat16;
struct Float16;
struct Float8E4M3;
struct Float8E5M2;
struct Float8E8M0;

/// Element types, named as in safetensors (F32 -> f32, F8_E4M3 -> f8_e4m3, ...).
enum class DType : std::uint8_t {
    boolean,
    u8,
    i8,
    f8_e4m3,
    f8_e5m2,
    f8_e8m0,
    u16,
    i16,
    f16,
    bf16,
    u32,
    i32,
    f32,
    u64,
    i64,
    f64,
};

/// Bytes of one element.
std::size_t size_of(DType dtype);
/// Short lower-case name: "f32", "bf16", "i8" ...
std::string_view to_string(DType dtype);

using Shape = std::vector<std::int64_t>;

/// Product of the dimensions (1 for a scalar). Throws InvalidArgument on negative sizes or overflow.
std::int64_t element_count(const Shape& shape);
/// "[2,3]".
std::string to_string(const Shape& shape);

/// Where the data of a tensor lives.
enum class Device : std::uint8_t { cpu, cuda };

/// A borrowed array. Strides count elements; an empty `strides` means contiguous (row-major).
struct TensorView {
    DType dtype = DType::f32;
    Shape shape;
    void* data = nullptr;
    Shape strides = {};
    Device device = Device::cpu;

    std::int64_t count() const { return element_count(shape); }
    std::int64_t dim(std::size_t axis) const { return shape.at(axis); }
    bool contiguous() const;
    /// Checked pointer to the elements: InvalidArgument if T is not this dtype's C++ type.
    template <typename T>
    T* as() const;
    /// "f32[2,100]".
    std::string describe() const;
};

template <>
bool* TensorView::as<bool>() const;
template <>
std::uint8_t* TensorView::as<std::uint8_t>() const;
template <>
std::int8_t* TensorView::as<std::int8_t>() const;
template <>
Float8E4M3* TensorView::as<Float8E4M3>() const;
template <>
Float8E5M2* TensorView::as<Float8E5M2>() const;
template <>
Float8E8M0* TensorView::as<Float8E8M0>() const;
template <>
std::uint16_t* TensorView::as<std::uint16_t>() const;
template <>
std::int16_t* TensorView::as<std::int16_t>() const;
template <>
Float16* TensorView::as<Float16>() const;
template <>
BFloat16* TensorView::as<BFloat16>() const;
template <>
std::uint32_t* TensorView::as<std::uint32_t>() const;
template <>
std::int32_t* TensorView::as<std::int32_t>() const;
template <>
float* TensorView::as<float>() const;
template <>
std::uint64_t* TensorView::as<std::uint64_t>() const;
template <>
std::int64_t* TensorView::as<std::int64_t>() const;
template <>
double* TensorView::as<double>() const;

/// An owned, contiguous array; copies share the storage.
class Tensor {
  public:
    Tensor() = default;
    /// Allocates (64-byte aligned, uninitialised).
    Tensor(DType dtype, Shape shape);
    /// Adopts memory kept alive by `owner` (a mapped file, another library's array).
    Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<const void> owner);

    static Tensor zeros(DType dtype, Shape shape);

    bool defined() const { return data_ != nullptr; }
    DType dtype() const { return dtype_; }
    const Shape& shape() const { return shape_; }
    std::int64_t dim(std::size_t axis) const { return shape_.at(axis); }
    std::int64_t count() const { return element_count(shape_); }
    std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype_); }
    void* data() const { return data_; }
    template <typename T>
    T* as() const {
        return view().as<T>();
    }
    TensorView view() const { return {dtype_, shape_, data_, {}, Device::cpu}; }
    operator TensorView() const { return view(); }
    std::string describe() const { return view().describe(); }

    /// The same storage under another shape of equal count.
    Tensor reshaped(Shape shape) const;
    /// A fresh copy, converted to `dtype`: rounded once, to nearest, ties to even. Integers saturate and NaN
    /// becomes 0 there; anything but 0 is true; floats overflow as in number_types.h. Unsupported for
    /// f8_e8m0.
    Tensor to(DType dtype) const;
    Tensor clone() const;

  private:
    DType dtype_ = DType::f32;
    Shape shape_;
    void* data_ = nullptr;
    std::shared_ptr<const void> owner_;
};

}  // namespace aerogel
