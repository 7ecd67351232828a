// Arrays between Python and the core, by DLPack: nothing is copied, nothing is owned for longer than a call
// unless the array is adopted.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "aerogel/tensor.h"

namespace aerogel::python {

namespace nb = nanobind;

/// What is only read; memory that must not be written is fine.
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
/// The same wherever it lies: the CPU, or a device that the core knows.
using DeviceArray = nb::ndarray<nb::ro>;
/// What is written, wherever it lies.
using OutArray = nb::ndarray<>;

/// The array as a borrowed view (strides included). InvalidArgument for an element type the core has no name
/// for, Unsupported for memory that is neither the CPU's nor CUDA's.
TensorView view_of(const Array& array);
TensorView view_of(const DeviceArray& array);
MutableView view_of(const OutArray& array);
/// The array as a Tensor that keeps it alive; a contiguous one is shared, any other is an InvalidArgument
/// naming `name`.
Tensor adopt(const Array& array, const char* name);
/// A Tensor as a NumPy array that shares its memory. Types NumPy lacks are handed out as unsigned integers of
/// their size.
nb::object to_numpy(const Tensor& tensor);

}  // namespace aerogel::python
