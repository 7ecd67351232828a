// aerogel._core.Convolution: a convolution packed for this CPU.
#include "ops/convolution.h"

#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"

namespace aerogel::python {
namespace {

using AxisSizes = std::array<std::int64_t, 3>;

std::shared_ptr<Convolution> packed_convolution(const Array& weight, const std::optional<Array>& bias,
                                                const AxisSizes& stride, const AxisSizes& padding) {
    const ConvolutionForm form = {.stride = {stride[0], stride[1], stride[2]},
                                  .padding = {padding[0], padding[1], padding[2]}};
    const Tensor kernel = adopt(weight, "weight"), offset = bias ? adopt(*bias, "bias") : Tensor();
    return without_gil([&] { return std::make_shared<Convolution>(kernel, offset, form); });
}

void run_convolution(const Convolution& convolution, const Array& x, const OutArray& y,
                     const std::optional<Array>& before) {
    ConvolutionCall call;
    call.x = view_of(x);
    call.y = view_of(y);
    if (before) call.before = view_of(*before);
    without_gil([&] { convolution.run(call); });
}

}  // namespace

void bind_convolution(nb::module_& module) {
    nb::class_<Convolution>(module, "Convolution",
                            "A convolution of pictures or videos, packed for this CPU.")
        .def(nb::new_(&packed_convolution), nb::arg("weight"), nb::arg("bias").none(), nb::arg("stride"),
             nb::arg("padding"),
             "weight [out, in, height, width] or [out, in, frames, height, width] (f32, bf16, f16); stride "
             "and zeros in front of frames, lines and columns.")
        .def("run", &run_convolution, nb::arg("x"), nb::arg("y"), nb::arg("before").none(),
             "x, y: f32 [frames, height, width, channels]; before: the last frames before x, or None.");
}

}  // namespace aerogel::python
