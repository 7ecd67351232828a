// Dense arrays: DType, Shape, Device, Tensor (shares its storage), TensorView and MutableView (borrow it to
// read and to write). A Tensor may own memory it allocated or keep a mapped file alive; a view owns nothing.
// layer: core
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
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

/// Bytes of one element. InvalidArgument for a number that is none of the types, here and below.
std::size_t size_of(DType dtype);
/// Short lower-case name: "f32", "bf16", "i8" ...
std::string_view to_string(DType dtype);

using Shape = std::vector<std::int64_t>;

/// Product of the dimensions (1 for a scalar). Throws InvalidArgument on negative sizes or overflow.
std::int64_t element_count(const Shape& shape);
/// shape[axis]; InvalidArgument where there is no such axis.
std::int64_t size_along(const Shape& shape, std::size_t axis);
/// "[2,3]".
std::string to_string(const Shape& shape);

/// DTypeOf<float>::value is the DType whose elements are floats.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<bool> : std::integral_constant<DType, DType::boolean> {};
template <>
struct DTypeOf<std::uint8_t> : std::integral_constant<DType, DType::u8> {};
template <>
struct DTypeOf<std::int8_t> : std::integral_constant<DType, DType::i8> {};
template <>
struct DTypeOf<Float8E4M3> : std::integral_constant<DType, DType::f8_e4m3> {};
template <>
struct DTypeOf<Float8E5M2> : std::integral_constant<DType, DType::f8_e5m2> {};
template <>
struct DTypeOf<Float8E8M0> : std::integral_constant<DType, DType::f8_e8m0> {};
template <>
struct DTypeOf<std::uint16_t> : std::integral_constant<DType, DType::u16> {};
template <>
struct DTypeOf<std::int16_t> : std::integral_constant<DType, DType::i16> {};
template <>
struct DTypeOf<Float16> : std::integral_constant<DType, DType::f16> {};
template <>
struct DTypeOf<BFloat16> : std::integral_constant<DType, DType::bf16> {};
template <>
struct DTypeOf<std::uint32_t> : std::integral_constant<DType, DType::u32> {};
template <>
struct DTypeOf<std::int32_t> : std::integral_constant<DType, DType::i32> {};
template <>
struct DTypeOf<float> : std::integral_constant<DType, DType::f32> {};
template <>
struct DTypeOf<std::uint64_t> : std::integral_constant<DType, DType::u64> {};
template <>
struct DTypeOf<std::int64_t> : std::integral_constant<DType, DType::i64> {};
template <>
struct DTypeOf<double> : std::integral_constant<DType, DType::f64> {};

enum class DeviceKind : std::uint8_t { cpu, cuda };

/// Where the data of a tensor lives and is computed with.
struct Device {
    DeviceKind kind = DeviceKind::cpu;
    int index = 0;

    /// The first of its kind.
    static const Device cpu;   // NOLINT(readability-identifier-naming): reads like the kinds
    static const Device cuda;  // NOLINT(readability-identifier-naming)

    friend bool operator==(const Device&, const Device&) = default;
    /// "cpu", "cuda:0".
    std::string describe() const;
};
inline constexpr Device Device::cpu = {};
inline constexpr Device Device::cuda = {DeviceKind::cuda};

/// A borrowed array to read. Strides count elements; an empty `strides` means contiguous (row-major).
struct TensorView {
    DType dtype = DType::f32;
    Shape shape = {};
    const void* data = nullptr;
    Shape strides = {};
    Device device = {};

    std::int64_t count() const { return element_count(shape); }
    std::int64_t dim(std::size_t axis) const { return size_along(shape, axis); }
    /// False also where there are not as many strides as axes.
    bool contiguous() const;
    /// `elements` further than the first element; null where there is no data.
    const void* data_at(std::int64_t elements) const {
        if (data == nullptr) return nullptr;
        return static_cast<const std::byte*>(data) + elements * static_cast<std::int64_t>(size_of(dtype));
    }
    /// Checked pointer to the elements: InvalidArgument if T is not this dtype's C++ type.
    template <typename T>
    const T* as() const {
        expect(DTypeOf<T>::value);
        return static_cast<const T*>(data);
    }
    /// "f32[2,100]".
    std::string describe() const;

  private:
    void expect(DType wanted) const;
    friend struct MutableView;
    friend class Tensor;
};

/// A borrowed array to write.
struct MutableView {
    DType dtype = DType::f32;
    Shape shape = {};
    void* data = nullptr;
    Shape strides = {};
    Device device = {};

    operator TensorView() const { return {dtype, shape, data, strides, device}; }
    std::int64_t count() const { return element_count(shape); }
    std::int64_t dim(std::size_t axis) const { return size_along(shape, axis); }
    bool contiguous() const { return TensorView(*this).contiguous(); }
    void* data_at(std::int64_t elements) const {
        if (data == nullptr) return nullptr;
        return static_cast<std::byte*>(data) + elements * static_cast<std::int64_t>(size_of(dtype));
    }
    template <typename T>
    T* as() const {
        if (dtype != DTypeOf<T>::value) TensorView(*this).expect(DTypeOf<T>::value);
        return static_cast<T*>(data);
    }
    std::string describe() const { return TensorView(*this).describe(); }
};

/// An owned, contiguous array; copies share the storage. What is const here is not written. Without values
/// (made from nothing, or moved from) it is not defined().
class Tensor {
  public:
    Tensor() = default;
    Tensor(const Tensor&) = default;
    Tensor& operator=(const Tensor&) = default;
    Tensor(Tensor&& other) noexcept;
    Tensor& operator=(Tensor&& other) noexcept;
    ~Tensor() = default;
    /// Allocates on the device (64-byte aligned, uninitialised). Error where there is not so much memory.
    Tensor(DType dtype, Shape shape, Device device = {});
    /// Adopts memory kept alive by `owner` (another library's array).
    Tensor(DType dtype, Shape shape, void* data, std::shared_ptr<const void> owner);
    /// The same for memory that is never written (a mapped file).
    Tensor(DType dtype, Shape shape, const void* data, std::shared_ptr<const void> owner);

    static Tensor zeros(DType dtype, Shape shape, Device device = {});
    /// A copy of these values, f32. InvalidArgument when the shape has another number of elements.
    static Tensor of(std::span<const float> values, Shape shape, Device device = {});

    bool defined() const { return data_ != nullptr; }
    DType dtype() const { return dtype_; }
    const Shape& shape() const { return shape_; }
    Device device() const { return device_; }
    std::int64_t dim(std::size_t axis) const { return size_along(shape_, axis); }
    std::int64_t count() const { return element_count(shape_); }
    std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype_); }
    const void* data() const { return data_; }
    template <typename T>
    const T* as() const {
        if (dtype_ != DTypeOf<T>::value) view().expect(DTypeOf<T>::value);
        return static_cast<const T*>(data_);
    }
    TensorView view() const { return {dtype_, shape_, data_, {}, device()}; }
    operator TensorView() const { return view(); }
    std::string describe() const { return view().describe(); }

    bool read_only() const { return mutable_data_ == nullptr; }
    /// To write; InvalidArgument where the tensor is read-only.
    void* mutable_data();
    template <typename T>
    T* mutable_as() {
        void* data = mutable_data();
        if (dtype_ != DTypeOf<T>::value) view().expect(DTypeOf<T>::value);
        return static_cast<T*>(data);
    }
    MutableView mutable_view() { return {dtype_, shape_, mutable_data(), {}, device()}; }
    operator MutableView() { return mutable_view(); }

    /// The same storage under another shape of equal count.
    Tensor reshaped(Shape shape) const;
    /// A fresh copy, converted to `dtype`: rounded once, to nearest, ties to even. Integers saturate and NaN
    /// becomes 0 there; anything but 0 is true; floats overflow as in number_types.h. Unsupported for
    /// f8_e8m0. InvalidArgument without values, as below.
    Tensor to(DType dtype) const;
    /// The elements of an f32 tensor, wherever it lies. InvalidArgument for other types.
    std::vector<float> values() const;
    /// On that device: a copy, or this tensor where it lies there already.
    Tensor to(Device device) const;
    /// A fresh copy on the same device.
    Tensor clone() const;

  private:
    void need_values() const;

    DType dtype_ = DType::f32;
    Shape shape_;
    const void* data_ = nullptr;
    void* mutable_data_ = nullptr;  // null where the memory is never written
    std::shared_ptr<const void> owner_;
    Device device_;
};

}  // namespace aerogel
