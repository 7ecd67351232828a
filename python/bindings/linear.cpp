// aerogel._core.Linear: a quantized layer made from a float one, from arrays or from files.
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/timestep.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "quant/float_layer.h"
#include "quant/layer_arrays.h"
#include "quant/restore.h"
#include "quant/schemes.h"

namespace aerogel::python {
namespace {

std::shared_ptr<QuantizedLinear> quantize_float(const Array& weight, const std::optional<Array>& bias,
                                                std::string_view scheme_name,
                                                std::optional<std::int64_t> group_size) {
    LayerChoices choices;
    choices.weight.group_size = group_size.value_or(kSchemeGroups);
    const SchemeRow& scheme = scheme_with_choices(scheme_name, choices);
    if (scheme.needs_calibration) {
        throw InvalidArgument("[quantize] " + std::string(scheme.name) +
                              " needs calibrated activation ranges; schemes without data quantize in memory, "
                              "this one comes from files (aerogel.quantize(model, description_path))");
    }
    const FloatLayer layer = {"", adopt(weight, "weight"), bias ? adopt(*bias, "bias") : Tensor()};
    return without_gil(
        [&] { return std::make_shared<QuantizedLinear>(quantize_float(layer, scheme, choices)); });
}

// Borrowed: a layer that kept its arrays alive could not die with them (see _packed.py).
NamedArrays borrowed(const nb::kwargs& given) {
    NamedArrays arrays;
    for (const auto& [key, value] : given) {
        auto name = nb::cast<std::string>(key);
        Tensor tensor = adopt(nb::cast<Array>(value), name.c_str());
        if (tensor.count() != 0) tensor = {tensor.dtype(), tensor.shape(), tensor.data(), nullptr};
        arrays.emplace_back(std::move(name), std::move(tensor));
    }
    return arrays;
}

std::shared_ptr<QuantizedLinear> from_arrays(const std::string& scheme, std::int64_t in_features,
                                             std::int64_t group_size, const nb::kwargs& arrays) {
    QuantizedLinearWeights weights = layer_of_arrays({scheme, in_features, group_size}, borrowed(arrays));
    return without_gil([&] { return std::make_shared<QuantizedLinear>(std::move(weights)); });
}

std::shared_ptr<QuantizedLinear> on_gpu(int index, const std::string& scheme, std::int64_t in_features,
                                        std::int64_t group_size, const nb::kwargs& arrays) {
    QuantizedLinearWeights weights = layer_of_arrays({scheme, in_features, group_size}, borrowed(arrays));
    const Device device = {DeviceKind::cuda, index};
    return without_gil([&] { return std::make_shared<QuantizedLinear>(std::move(weights), device); });
}

void check_arrays(const std::string& scheme, std::int64_t in_features, std::int64_t group_size,
                  const nb::kwargs& arrays) {
    const QuantizedLinearWeights weights =
        layer_of_arrays({scheme, in_features, group_size}, borrowed(arrays));
    without_gil([&] { check_layer(weights); });
}

void forward(const QuantizedLinear& linear, const DeviceArray& x, const OutArray& y, int timestep,
             const TimestepPolicyConfig* policy, std::uintptr_t stream) {
    const TensorView in = view_of(x);
    const MutableView out = view_of(y);
    StepContext step;
    step.timestep_index = timestep;
    if (policy != nullptr) step = policy->context(timestep);
    step.call.stream = reinterpret_cast<void*>(stream);
    without_gil([&] { linear.forward(in, out, step); });
}

nb::dict arrays_of(const QuantizedLinear& linear) {
    nb::dict arrays;
    for (const auto& [name, tensor] : named_arrays(linear.weights())) arrays[name.c_str()] = to_numpy(tensor);
    return arrays;
}

void bind_arrays(nb::module_& module) {
    nb::class_<LayerArray>(module, "LayerArray", "What a layer may store under one name.")
        .def_prop_ro("name", [](const LayerArray& array) { return std::string(array.name); })
        .def_ro("from_data", &LayerArray::from_data, "A float weight alone does not give it.");
    module.def(
        "layer_arrays",
        [] {
            std::vector<LayerArray> rows;
            for (const LayerArray& array : layer_arrays()) {
                if (array.has_member()) rows.push_back(array);
            }
            return rows;
        },
        "Every array that a layer may store, the weight first.");
}

void bind_schemes(nb::module_& module) {
    module.def(
        "scheme",
        [](std::string_view name) {
            LayerChoices choices;
            const SchemeRow& scheme = scheme_with_choices(name, choices);
            return quant_type_of(scheme, choices);
        },
        "The file name of a scheme or of one of its aliases.");
    nb::class_<SchemeRow>(module, "Scheme", "What one Linear computes.")
        .def_prop_ro("name", [](const SchemeRow& row) { return std::string(row.name); })
        .def_prop_ro("summary", [](const SchemeRow& row) { return std::string(row.summary); })
        .def_ro("needs_calibration", &SchemeRow::needs_calibration)
        .def_ro("per_step", &SchemeRow::per_step);
    module.def(
        "scheme_row", [](std::string_view name) { return scheme_row("quantize", name); }, nb::arg("name"),
        "The row of a scheme or of one of its aliases.");
    module.def("schemes", [] { return std::vector<SchemeRow>(schemes().begin(), schemes().end()); });
}

}  // namespace

void bind_linear(nb::module_& module) {
    nb::class_<QuantizedLinear>(module, "Linear", "A quantized Linear layer, packed for this machine.")
        .def_static("quantize", &quantize_float, nb::arg("weight"), nb::arg("bias").none(), nb::arg("scheme"),
                    nb::arg("group_size") = nb::none(),
                    "Quantizes a float weight [out_features, in_features] (f32, bf16, f16) without data.")
        .def_static(
            "from_arrays", &from_arrays, nb::arg("scheme"), nb::arg("in_features"), nb::arg("group_size"),
            nb::arg("arrays"),
            nb::sig("def from_arrays(scheme: str, in_features: int, group_size: int, **arrays: object) "
                    "-> Linear"),
            "The layer whose arrays() these are, by name. It borrows them: they must outlive it.")
        .def_static(
            "on_gpu", &on_gpu, nb::arg("index"), nb::arg("scheme"), nb::arg("in_features"),
            nb::arg("group_size"), nb::arg("arrays"),
            nb::sig(
                "def on_gpu(index: int, scheme: str, in_features: int, group_size: int, **arrays: object) "
                "-> Linear"),
            "The same, computing on a GPU. The arrays lie on the CPU.")
        .def_static(
            "check", &check_arrays, nb::arg("scheme"), nb::arg("in_features"), nb::arg("group_size"),
            nb::arg("arrays"),
            nb::sig("def check(scheme: str, in_features: int, group_size: int, **arrays: object) -> None"),
            "Raises what from_arrays would raise.")
        .def("arrays", &arrays_of, "Stored arrays by name, sharing the layer's memory.")
        .def_prop_ro(
            "check_intact", [](const QuantizedLinear& linear) { return linear.weights().check_intact; },
            "To be called when the arrays have been read; None where they are not views of a file.")
        .def(
            "move_weight",
            [](QuantizedLinear& linear, bool to_gpu) {
                without_gil([&] { linear.move_weight(to_gpu ? WeightPlace::device : WeightPlace::host); });
            },
            nb::arg("to_gpu"),
            "Of a layer on a GPU: what it has packed waits in host memory, or comes back. Nobody may run it.")
        .def("forward", &forward, nb::arg("x"), nb::arg("y"), nb::arg("timestep") = -1,
             nb::arg("policy").none() = nb::none(), nb::arg("stream") = 0,
             "Writes x w^T + bias to y; f32 or bf16, on the layer's device. Work on a GPU is put on the "
             "stream.")
        .def(
            "dequantized",
            [](const QuantizedLinear& linear) {
                QuantizedLinearWeights weights = linear.weights();
                weights.mul_scale = {};
                return to_numpy(without_gil([&] { return restored_weight(weights); }));
            },
            "The float32 matrix that the layer multiplies x with in effect, without mul_scale.")
        .def_prop_ro("scheme", &QuantizedLinear::scheme)
        .def_prop_ro("in_features", &QuantizedLinear::in_features)
        .def_prop_ro("out_features", &QuantizedLinear::out_features)
        .def_prop_ro("steps", [](const QuantizedLinear& linear) { return linear.weights().steps(); })
        .def_prop_ro("group_size",
                     [](const QuantizedLinear& linear) { return linear.weights().weight.group_size; })
        .def_prop_ro("weight_bytes", &QuantizedLinear::weight_bytes, "Bytes of the stored arrays.");
    bind_arrays(module);
    bind_schemes(module);
}

}  // namespace aerogel::python
