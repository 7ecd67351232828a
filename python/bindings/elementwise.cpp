// What stands between layers: activation functions, gated units, normalisation.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "aerogel/error.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "ops/elementwise.h"

namespace aerogel::python {
namespace {

constexpr std::array kFunctions = {std::pair{"gelu_tanh", ActivationFunction::gelu_tanh},
                                   std::pair{"gelu_erf", ActivationFunction::gelu_erf},
                                   std::pair{"silu", ActivationFunction::silu}};

ActivationFunction function_of(std::string_view name) {
    for (const auto& [known, function] : kFunctions)
        if (name == known) return function;
    throw InvalidArgument("[activation] function must be gelu_tanh, gelu_erf or silu, got " +
                          std::string(name));
}

void run_activation(std::string_view name, const Array& x, const OutArray& y) {
    const ActivationFunction function = function_of(name);
    const TensorView in = view_of(x);
    const MutableView out = view_of(y);
    without_gil([&] { activation(function, in, out); });
}

void run_gated(std::string_view name, const Array& gate, const Array& x, const OutArray& y) {
    const ActivationFunction function = function_of(name);
    const TensorView open = view_of(gate), in = view_of(x);
    const MutableView out = view_of(y);
    without_gil([&] { gated(function, open, in, out); });
}

void run_rms_norm(const Array& x, const OutArray& y, const std::optional<Array>& weight, float epsilon) {
    const Norm args = {.kind = NormKind::rms,
                       .x = view_of(x),
                       .y = view_of(y),
                       .weight = weight ? view_of(*weight) : TensorView{},
                       .epsilon = epsilon};
    without_gil([&] { norm(args); });
}

}  // namespace

void bind_elementwise(nb::module_& module) {
    module.def("activation", &run_activation, nb::arg("function"), nb::arg("x"), nb::arg("y"),
               "y = f(x), contiguous and of one shape; y may be x. f: gelu_tanh, gelu_erf or silu.");
    module.def("gated", &run_gated, nb::arg("function"), nb::arg("gate"), nb::arg("x"), nb::arg("y"),
               "y = f(gate) * x, [rows, columns] each, rows contiguous; y may be gate or x.");
    module.def(
        "rms_norm", &run_rms_norm, nb::arg("x"), nb::arg("y"), nb::arg("weight").none(), nb::arg("epsilon"),
        "y = x / sqrt(mean of squares + epsilon) * weight; x and y [rows, columns], rows contiguous, f32 "
        "or bf16; weight f32 or None.");
}

}  // namespace aerogel::python
