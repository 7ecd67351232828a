// Element types of DLPack and of the core, and the two directions of sharing.
#include "bindings/arrays.h"

#include <array>
#include <memory>
#include <string>

#include "aerogel/error.h"

namespace aerogel::python {
namespace {

struct TypePair {
    DType dtype;
    nb::dlpack::dtype dlpack;
};

constexpr nb::dlpack::dtype type(nb::dlpack::dtype_code code, std::uint8_t bits) {
    return {static_cast<std::uint8_t>(code), bits, 1};
}

constexpr std::array<TypePair, 13> kTypes = {{
    {DType::boolean, type(nb::dlpack::dtype_code::Bool, 8)},
    {DType::u8, type(nb::dlpack::dtype_code::UInt, 8)},
    {DType::i8, type(nb::dlpack::dtype_code::Int, 8)},
    {DType::u16, type(nb::dlpack::dtype_code::UInt, 16)},
    {DType::i16, type(nb::dlpack::dtype_code::Int, 16)},
    {DType::f16, type(nb::dlpack::dtype_code::Float, 16)},
    {DType::bf16, type(nb::dlpack::dtype_code::Bfloat, 16)},
    {DType::u32, type(nb::dlpack::dtype_code::UInt, 32)},
    {DType::i32, type(nb::dlpack::dtype_code::Int, 32)},
    {DType::f32, type(nb::dlpack::dtype_code::Float, 32)},
    {DType::u64, type(nb::dlpack::dtype_code::UInt, 64)},
    {DType::i64, type(nb::dlpack::dtype_code::Int, 64)},
    {DType::f64, type(nb::dlpack::dtype_code::Float, 64)},
}};

nb::dlpack::dtype numpy_type(DType dtype) {
    const bool known_to_numpy = dtype != DType::bf16;
    for (const TypePair& pair : kTypes) {
        if (known_to_numpy && pair.dtype == dtype) return pair.dlpack;
    }
    return type(nb::dlpack::dtype_code::UInt, static_cast<std::uint8_t>(8 * size_of(dtype)));
}

Device device_of(int kind, int index) {
    if (kind == nb::device::cpu::value) return Device::cpu;
    if (kind == nb::device::cuda::value) return {DeviceKind::cuda, index};
    throw Unsupported("[aerogel] an array lies on a device that is not known here (DLPack device " +
                      std::to_string(kind) + ")");
}

template <typename View, typename AnyArray>
View view_from(const AnyArray& array) {
    View view;
    view.device = device_of(array.device_type(), array.device_id());
    bool known = false;
    for (const TypePair& pair : kTypes) {
        if (pair.dlpack == array.dtype()) {
            view.dtype = pair.dtype;
            known = true;
        }
    }
    if (!known) {
        throw InvalidArgument("[aerogel] an array has an element type that is not known here (DLPack code " +
                              std::to_string(array.dtype().code) + ", " + std::to_string(array.dtype().bits) +
                              " bits)");
    }
    for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
        view.shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
        view.strides.push_back(array.stride(axis));
    }
    // The strides of an array without elements mean nothing.
    if (view.contiguous() || view.count() == 0) view.strides.clear();
    view.data = array.data();
    return view;
}

}  // namespace

TensorView view_of(const Array& array) {
    return view_from<TensorView>(array);
}

TensorView view_of(const DeviceArray& array) {
    return view_from<TensorView>(array);
}

MutableView view_of(const OutArray& array) {
    return view_from<MutableView>(array);
}

Tensor adopt(const Array& array, const char* name) {
    const TensorView view = view_of(array);
    if (!view.contiguous()) {
        throw InvalidArgument("[aerogel] " + std::string(name) + " must be contiguous, got " +
                              view.describe() + " with gaps");
    }
    if (view.count() == 0) return {view.dtype, view.shape};  // empty arrays may come without memory
    return {view.dtype, view.shape, view.data, std::make_shared<Array>(array)};
}

nb::object to_numpy(const Tensor& tensor) {
    std::vector<std::size_t> shape;
    for (const std::int64_t size : tensor.shape()) shape.push_back(static_cast<std::size_t>(size));
    auto* kept = new Tensor(tensor);
    const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<Tensor*>(p); });
    const nb::dlpack::dtype type = numpy_type(tensor.dtype());
    if (tensor.read_only())
        return nb::cast(
            nb::ndarray<nb::numpy, nb::ro>(tensor.data(), shape.size(), shape.data(), owner, nullptr, type));
    return nb::cast(
        nb::ndarray<nb::numpy>(kept->mutable_data(), shape.size(), shape.data(), owner, nullptr, type));
}

}  // namespace aerogel::python
