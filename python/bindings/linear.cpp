// aerogel._core.Linear: a quantized layer made from a float one, from arrays or from files.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/timestep.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "formats/format.h"
#include "formats/mx.h"
#include "quant/float_layer.h"
#include "quant/layer_check.h"
#include "quant/quant_type.h"
#include "quant/restore.h"
#include "quant/schemes.h"

namespace aerogel::python {
namespace {

using Arrays = nb::dict;

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
Tensor take(const Arrays& arrays, const char* name) {
    if (!arrays.contains(name)) return {};
    const Tensor tensor = adopt(nb::cast<Array>(arrays[name]), name);
    if (tensor.count() == 0) return tensor;
    return {tensor.dtype(), tensor.shape(), tensor.data(), nullptr};
}

// NumPy has no 8-bit floats: they come and go as bytes (see to_numpy).
Tensor stored_as(DType storage, const Tensor& tensor) {
    if (!tensor.defined() || tensor.dtype() != DType::u8 || size_of(storage) != 1) return tensor;
    return {storage, tensor.shape(), tensor.data(), std::make_shared<Tensor>(tensor)};
}

float scalar(const Tensor& tensor, const char* name, std::int64_t step) {
    if (!tensor.defined() || tensor.dtype() != DType::f32 || step >= tensor.count()) {
        throw InvalidArgument("[quantized_linear] " + std::string(name) +
                              " must hold one f32 per step, got " +
                              (tensor.defined() ? tensor.describe() : "nothing"));
    }
    return tensor.as<float>()[step];
}

// Row `step` of [steps, n].
Tensor row(const Tensor& tensor, const char* name, std::int64_t step) {
    if (!tensor.defined() || tensor.shape().size() != 2 || step >= tensor.dim(0)) {
        throw InvalidArgument("[quantized_linear] " + std::string(name) + " must be [steps, n], got " +
                              (tensor.defined() ? tensor.describe() : "nothing"));
    }
    const std::size_t bytes = static_cast<std::size_t>(tensor.dim(1)) * size_of(tensor.dtype());
    auto keep = std::make_shared<Tensor>(tensor);
    return {tensor.dtype(),
            {tensor.dim(1)},
            static_cast<std::byte*>(tensor.data()) + static_cast<std::size_t>(step) * bytes,
            std::move(keep)};
}

QuantizedLinearWeights weights_of(const std::string& scheme_name, std::int64_t columns,
                                  std::int64_t group_size, const Arrays& arrays) {
    const SchemeRow& scheme = scheme_row("quantized_linear", split_quant_type(scheme_name).scheme);
    QuantizedLinearWeights weights;
    weights.scheme = scheme.name;
    weights.weight.format = scheme.weight;
    weights.weight.data = stored_as(format_row(scheme.weight).storage, take(arrays, "weight"));
    if (!weights.weight.data.defined() || weights.weight.data.shape().size() != 2) {
        throw InvalidArgument("[quantized_linear] weight must be a matrix");
    }
    weights.weight.rows = weights.weight.data.dim(0);
    weights.weight.columns = columns;
    weights.weight.group_size = group_size;
    weights.weight.scale = take(arrays, "weight_scale");
    weights.weight.offset = take(arrays, "weight_offset");
    weights.weight.dual_scale = take(arrays, "weight_dual_scale");
    if (const Tensor& dual = weights.weight.dual_scale; dual.defined() && dual.shape().size() == 2) {
        weights.weight.dual_block = mx_dual_block(columns, dual.dim(1));  // 0 is refused with the rest
    }
    weights.bias = take(arrays, "bias");
    weights.mul_scale = take(arrays, "mul_scale");
    weights.rotation = take(arrays, "rotation");
    weights.low_rank_l1 = take(arrays, "svd_lowrank_l1");
    weights.low_rank_l2 = take(arrays, "svd_lowrank_l2");
    const Tensor scales = take(arrays, "input_scale"), offsets = take(arrays, "input_offset");
    const Tensor biases = take(arrays, "quant_bias"), deq_scales = take(arrays, "deq_scale");
    for (std::int64_t step = 0; scales.defined() && step < scales.count(); ++step) {
        weights.static_scales.push_back(
            {scalar(scales, "input_scale", step), scalar(offsets, "input_offset", step),
             row(biases, "quant_bias", step), row(deq_scales, "deq_scale", step)});
    }
    return weights;
}

std::shared_ptr<QuantizedLinear> from_arrays(const std::string& scheme, std::int64_t columns,
                                             std::int64_t group_size, const Arrays& arrays) {
    QuantizedLinearWeights weights = weights_of(scheme, columns, group_size, arrays);
    return without_gil([&] { return std::make_shared<QuantizedLinear>(std::move(weights)); });
}

void check_arrays(const std::string& scheme, std::int64_t columns, std::int64_t group_size,
                  const Arrays& arrays) {
    const QuantizedLinearWeights weights = weights_of(scheme, columns, group_size, arrays);
    without_gil([&] { check_layer(weights); });
}

void put(Arrays& arrays, const char* name, const Tensor& tensor) {
    if (tensor.defined()) arrays[name] = to_numpy(tensor);
}

// The static scales of all steps: input_scale and input_offset f32 [steps], quant_bias i32 [steps, n],
// deq_scale f32 [steps, n].
void put_static(Arrays& arrays, const QuantizedLinearWeights& weights) {
    const auto steps = static_cast<std::int64_t>(weights.static_scales.size());
    if (steps == 0) return;
    const std::int64_t n = weights.weight.rows;
    const Tensor scales(DType::f32, {steps}), offsets(DType::f32, {steps});
    const Tensor biases(DType::i32, {steps, n}), deq_scales(DType::f32, {steps, n});
    for (std::int64_t step = 0; step < steps; ++step) {
        const StaticScales& one = weights.static_scales[static_cast<std::size_t>(step)];
        scales.as<float>()[step] = one.input_scale;
        offsets.as<float>()[step] = one.input_offset;
        std::copy_n(one.quant_bias.as<std::int32_t>(), n, biases.as<std::int32_t>() + step * n);
        std::copy_n(one.deq_scale.as<float>(), n, deq_scales.as<float>() + step * n);
    }
    put(arrays, "input_scale", scales);
    put(arrays, "input_offset", offsets);
    put(arrays, "quant_bias", biases);
    put(arrays, "deq_scale", deq_scales);
}

Arrays arrays_of(const QuantizedLinear& linear) {
    const QuantizedLinearWeights& weights = linear.weights();
    Arrays arrays;
    put(arrays, "weight", weights.weight.data);
    put(arrays, "weight_scale", weights.weight.scale);
    put(arrays, "weight_offset", weights.weight.offset);
    put(arrays, "weight_dual_scale", weights.weight.dual_scale);
    put(arrays, "bias", weights.bias);
    put(arrays, "mul_scale", weights.mul_scale);
    put(arrays, "rotation", weights.rotation);
    if (weights.low_rank_l1.defined()) {
        put(arrays, "svd_lowrank_l1", weights.low_rank_l1.to(DType::f32));
        put(arrays, "svd_lowrank_l2", weights.low_rank_l2.to(DType::f32));
    }
    put_static(arrays, weights);
    return arrays;
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
    module.def(
        "scheme_row",
        [](std::string_view name) {
            const SchemeRow& row = scheme_row("quantize", name);
            nb::dict out;
            out["name"] = std::string(row.name);
            out["needs_calibration"] = row.needs_calibration;
            out["per_step"] = row.per_step;
            return out;
        },
        "name, needs_calibration and per_step of a scheme or of one of its aliases.");
    module.def("schemes", [] {
        nb::list rows;
        for (const SchemeRow& row : schemes()) {
            rows.append(
                nb::make_tuple(std::string(row.name), std::string(row.summary), row.needs_calibration));
        }
        return rows;
    });
}

}  // namespace

void bind_linear(nb::module_& module) {
    nb::class_<QuantizedLinear>(module, "Linear", "A quantized Linear layer, packed for this machine.")
        .def_static("quantize", &quantize_float, nb::arg("weight"), nb::arg("bias").none(), nb::arg("scheme"),
                    nb::arg("group_size") = nb::none(),
                    "Quantizes a float weight [out_features, in_features] (f32, bf16, f16) without data.")
        .def_static("from_arrays", &from_arrays, nb::arg("scheme"), nb::arg("in_features"),
                    nb::arg("group_size"), nb::arg("arrays"),
                    "The layer whose arrays() these are. It borrows them: they must outlive it.")
        .def_static("check", &check_arrays, nb::arg("scheme"), nb::arg("in_features"), nb::arg("group_size"),
                    nb::arg("arrays"), "Raises what from_arrays would raise.")
        .def("arrays", &arrays_of, "Stored arrays by name, sharing the layer's memory.")
        .def(
            "forward",
            [](const QuantizedLinear& linear, const Array& x, const OutArray& y, int timestep,
               const TimestepPolicyConfig* policy) {
                const TensorView in = view_of(x), out = view_of(y);
                StepContext step;
                step.timestep_index = timestep;
                if (policy != nullptr) step = policy->context(timestep);
                without_gil([&] { linear.forward(in, out, step); });
            },
            nb::arg("x"), nb::arg("y"), nb::arg("timestep") = -1, nb::arg("policy").none() = nb::none(),
            "Writes x w^T + bias to y; f32 or bf16.")
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
        .def_prop_ro("steps",
                     [](const QuantizedLinear& linear) { return linear.weights().static_scales.size(); })
        .def_prop_ro("group_size",
                     [](const QuantizedLinear& linear) { return linear.weights().weight.group_size; })
        .def_prop_ro("weight_bytes", &QuantizedLinear::weight_bytes, "Bytes of the stored arrays.");
    bind_schemes(module);
}

}  // namespace aerogel::python
