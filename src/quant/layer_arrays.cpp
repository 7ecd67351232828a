// The rows, layers as named arrays, and what must hold of a layer's arrays.
#include "quant/layer_arrays.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "core/finite.h"
#include "formats/format.h"
#include "formats/mx.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

using Layer = QuantizedLinearWeights;
using Form = ArrayForm;

// Zeros in layers that need none: every reader of integers expects it, and so does the exporter of W8A8 in
// fp8.
bool has_offset(const SchemeRow& scheme) {
    return format_row(scheme.weight).integers != nullptr || scheme.activation == Activation::per_token_fp8;
}
bool is_static(const SchemeRow& scheme) {
    return scheme.activation == Activation::per_tensor;
}
bool is_dual(const SchemeRow& scheme) {
    return scheme.weight == Format::mxfp4_dual;
}

Shape scalar(const ArraySizes&) {
    return {};
}
Shape rows(const ArraySizes& s) {
    return {s.n};
}
Shape columns(const ArraySizes& s) {
    return {s.k};
}
Shape scales(const ArraySizes& s) {
    return {s.n, s.groups};
}

constexpr std::array<LayerArray, 15> kArrays = {{
    {.name = "weight", .form = Form::weight, .of_weight = &QuantizedTensor::data},
    {.name = "weight_scale", .form = Form::scale, .of_weight = &QuantizedTensor::scale, .shape = scales},
    {.name = "weight_offset",
     .form = Form::offset,
     .of_weight = &QuantizedTensor::offset,
     .shape = scales,
     .of_scheme = has_offset},
    {.name = "weight_dual_scale",
     .form = Form::dual_scale,
     .of_weight = &QuantizedTensor::dual_scale,
     .shape = [](const ArraySizes& s) -> Shape {
         return {s.n, s.dual_blocks};
     },
     .of_scheme = is_dual},
    {.name = "input_scale",
     .own = &Layer::input_scale,
     .shape = scalar,
     .by_step = true,
     .of_scheme = is_static,
     .from_data = true},
    {.name = "input_offset",
     .form = Form::whole,
     .own = &Layer::input_offset,
     .shape = scalar,
     .by_step = true,
     .of_scheme = is_static},
    {.name = "quant_bias",
     .form = Form::integers,
     .own = &Layer::quant_bias,
     .shape = rows,
     .by_step = true,
     .of_scheme = is_static},
    {.name = "deq_scale",
     .form = Form::bits,
     .own = &Layer::deq_scale,
     .shape = rows,
     .by_step = true,
     .of_scheme = is_static},
    {.name = "bias",
     .own = &Layer::bias,
     .shape = rows,
     .part = &LayerParts::bias,
     .unnamed = true,
     .is_float = true},
    {.name = "rotation",
     .form = Form::signs,
     .own = &Layer::rotation,
     .shape = [](const ArraySizes& s) -> Shape {
         return {s.k / s.rotation_block, s.rotation_block};
     },
     .part = &LayerParts::rotation,
     .unnamed = true,
     .from_data = true},
    {.name = "svd_lowrank_l1",
     .form = Form::factors,
     .own = &Layer::low_rank_l1,
     .shape = [](const ArraySizes& s) -> Shape {
         return {s.rank, s.k};
     },
     .part = &LayerParts::low_rank,
     .outer = true,
     .is_float = true,
     .from_data = true},
    {.name = "svd_lowrank_l2",
     .form = Form::factors,
     .own = &Layer::low_rank_l2,
     .shape = [](const ArraySizes& s) -> Shape {
         return {s.n, s.rank};
     },
     .part = &LayerParts::low_rank,
     .outer = true,
     .is_float = true,
     .from_data = true},
    {.name = "mul_scale",
     .group = "div.",
     .own = &Layer::mul_scale,
     .shape = columns,
     .part = &LayerParts::smoothing,
     .outer = true,
     .is_float = true,
     .from_data = true},
    {.name = "column_order",
     .form = Form::integers,
     .own = &Layer::column_order,
     .shape = columns,
     .part = &LayerParts::column_order,
     .unnamed = true,
     .from_data = true},
    // A correction that W4A8 files carry for one accelerator's arithmetic; nothing here needs it.
    {.name = "scale_bias", .form = Form::ignored},
}};

// NumPy has no 8-bit floats: they come and go as bytes.
Tensor typed_as(DType storage, const Tensor& tensor) {
    if (!tensor.defined() || tensor.dtype() != DType::u8 || size_of(storage) != 1) return tensor;
    return {storage, tensor.shape(), tensor.data(), std::make_shared<Tensor>(tensor)};
}

}  // namespace

Shape LayerArray::whole_shape(const ArraySizes& sizes) const {
    Shape result = shape(sizes);
    if (by_step) result.insert(result.begin(), sizes.steps);
    return result;
}

std::span<const LayerArray> layer_arrays() {
    return kArrays;
}

const LayerArray& layer_array(std::string_view name) {
    const auto row = std::find_if(kArrays.begin(), kArrays.end(),
                                  [&](const LayerArray& array) { return array.name == name; });
    if (row == kArrays.end()) {
        throw InvalidArgument(fmt::format("[quantized_linear] a layer has no array '{}'", name));
    }
    return *row;
}

std::string stored_name(const LayerArray& array, const std::string& layer, const std::string& prefix) {
    return fmt::format("{}.{}{}", array.outer ? layer : prefix, array.group, array.name);
}

RotationShape rotation_of(const QuantizedLinearWeights& layer) {
    return {layer.rotation_kind, layer.rotation.dim(1)};
}

ArraySizes sizes_of(const QuantizedLinearWeights& layer) {
    const auto dim = [](const Tensor& tensor, std::size_t axis) {
        return tensor.shape().size() > axis ? tensor.dim(static_cast<int>(axis)) : 0;
    };
    ArraySizes sizes;
    sizes.n = layer.weight.rows;
    sizes.k = layer.weight.columns;
    sizes.groups = dim(layer.weight.scale, 1);
    sizes.dual_blocks = dim(layer.weight.dual_scale, 1);
    sizes.rotation_block = dim(layer.rotation, 1);
    sizes.rank = dim(layer.low_rank_l1, 0);
    sizes.steps = layer.steps();
    return sizes;
}

NamedArrays named_arrays(const QuantizedLinearWeights& layer) {
    NamedArrays arrays;
    for (const LayerArray& array : kArrays) {
        if (!array.has_member() || !array.in(layer).defined()) continue;
        const Tensor& tensor = array.in(layer);
        arrays.emplace_back(array.name, array.form == Form::factors ? tensor.to(DType::f32) : tensor);
    }
    return arrays;
}

void watch_file(QuantizedLinearWeights& layer, const SafetensorsFile& file,
                std::span<const std::string> tensors) {
    for (const std::string& name : tensors) {
        if (!file.contains(name)) continue;
        const void* bytes = file.tensor(name).data();
        for (const LayerArray& array : kArrays) {
            if (!array.has_member() || !array.in(layer).defined() || array.in(layer).data() != bytes)
                continue;
            layer.check_intact = [file] { file.check_intact(); };
            return;
        }
    }
}

QuantizedLinearWeights layer_of_arrays(const LayerMeaning& meaning, const NamedArrays& arrays) {
    const QuantType type = split_quant_type(meaning.scheme);
    const SchemeRow& scheme = scheme_row("quantized_linear", type.scheme);
    QuantizedLinearWeights layer;
    layer.scheme = scheme.name;
    layer.rotation_kind = type.rotation.value_or(RotationKind::hadamard);
    QuantizedTensor& weight = layer.weight;
    weight.format = scheme.weight;
    for (const auto& [name, tensor] : arrays) {
        const LayerArray& array = layer_array(name);
        if (!array.has_member()) continue;
        array.in(layer) =
            array.form == Form::weight ? typed_as(format_row(weight.format).storage, tensor) : tensor;
    }
    if (!weight.data.defined() || weight.data.shape().size() != 2) {
        throw InvalidArgument("[quantized_linear] weight must be a matrix");
    }
    weight.rows = weight.data.dim(0);
    weight.columns = meaning.in_features;
    weight.group_size = meaning.group_size;
    if (const Tensor& dual = weight.dual_scale; dual.defined() && dual.shape().size() == 2) {
        weight.dual_block = mx_dual_block(weight.columns, dual.dim(1));  // 0 is refused with the rest
    }
    return layer;
}

// --- checks between files and kernels: after these, a layer runs

namespace {

[[noreturn]] void refuse(const QuantizedLinearWeights& weights, const std::string& what) {
    throw InvalidArgument(fmt::format("[quantized_linear] {} layer {}x{}: {}", weights.scheme,
                                      weights.weight.rows, weights.weight.columns, what));
}

void check_array(const QuantizedLinearWeights& weights, std::string_view name, const Tensor& tensor,
                 DType dtype, const Shape& shape) {
    if (tensor.defined() && tensor.dtype() == dtype && tensor.shape() == shape) return;
    refuse(weights, fmt::format("{} must be {}{}, got {}", name, to_string(dtype), to_string(shape),
                                tensor.defined() ? tensor.describe() : "nothing"));
}

void check_finite(const QuantizedLinearWeights& weights, std::string_view name, const Tensor& tensor) {
    const auto bad = first_not_finite(tensor);
    if (!bad) return;
    refuse(weights, fmt::format("{} has the value {} at element {}", name, tensor.as<float>()[*bad], *bad));
}

// One step's scales of the activations.
void check_static(const QuantizedLinearWeights& weights, std::int64_t step) {
    const float scale = weights.input_scale.as<float>()[step],
                offset = weights.input_offset.as<float>()[step];
    if (!std::isfinite(scale) || scale <= 0.0F) {
        refuse(weights, fmt::format("input_scale must be positive and finite, got {}", scale));
    }
    if (!(offset >= -128.0F && offset <= 127.0F) || offset != std::nearbyint(offset)) {
        refuse(weights, fmt::format("input_offset must be a whole number of [-128, 127], got {}", offset));
    }
}

// Of the arrays that are plain numbers, and those of this scheme only.
void check_shapes(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    const ArraySizes sizes = sizes_of(weights);
    for (const LayerArray& array : layer_arrays()) {
        if (!array.is_plain()) continue;
        const Tensor& tensor = array.in(weights);
        const bool needed = array.fits(scheme) && array.part == nullptr;
        if (!needed && !tensor.defined()) continue;
        if (!array.fits(scheme)) refuse(weights, fmt::format("this scheme has no {}", array.name));
        const DType dtype = array.form == ArrayForm::integers ? DType::i32 : DType::f32;
        check_array(weights, array.name, tensor, dtype, array.whole_shape(sizes));
    }
}

// E8M0 scales that are no numbers, the format itself refuses.
void check_values(const QuantizedLinearWeights& weights) {
    for (const LayerArray& array : layer_arrays()) {
        if (!array.has_member() || array.form == ArrayForm::weight) continue;
        const Tensor& tensor = array.in(weights);
        if (!tensor.defined() || tensor.dtype() == DType::u8 || tensor.dtype() == DType::i32) continue;
        check_finite(weights, array.name, tensor.dtype() == DType::f32 ? tensor : tensor.to(DType::f32));
    }
}

void check_weight(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    if (weights.weight.format != scheme.weight) {
        refuse(weights, fmt::format("the weight must be {}, got {}", to_string(scheme.weight),
                                    to_string(weights.weight.format)));
    }
    if (weights.weight.rows < 1 || weights.weight.columns < 1) {
        refuse(weights, "the weight needs at least one row and one column");
    }
    if (const auto wrong = format_row(scheme.weight).problem(weights.weight); !wrong.empty()) {
        refuse(weights, "weight: " + wrong);
    }
    const QuantizedTensor& weight = weights.weight;
    if (scheme.activation != Activation::none && weight.offset.defined()) {
        refuse(weights, "weight_offset must be zeros (weights are symmetric in this scheme)");
    }
    if (!scheme.groups && weight.scale.dtype() == DType::f32 && weight.scale.count() != weight.rows) {
        refuse(weights, fmt::format("weight_scale must be one per row in this scheme, got {}",
                                    weight.scale.describe()));
    }
}

void check_rotation(const QuantizedLinearWeights& weights) {
    const Tensor& rotation = weights.rotation;
    if (!rotation.defined()) return;
    const std::int64_t k = weights.weight.columns;
    const std::int64_t block = rotation.shape().size() == 2 ? rotation.dim(1) : 0;
    if (!is_rotation_block({weights.rotation_kind, block}) || k % block != 0) {
        refuse(weights, fmt::format("rotation must be [{}/block,block] with a power of {} as block, got {}",
                                    k, weights.rotation_kind == RotationKind::hadamard ? "two" : "four",
                                    rotation.describe()));
    }
    check_array(weights, "rotation", rotation, DType::f32, {k / block, block});
    for (std::int64_t i = 0; i < k; ++i) {
        const float sign = rotation.as<float>()[i];
        if (sign != 1.0F && sign != -1.0F) {
            refuse(weights, fmt::format("rotation must hold 1 and -1, got {} at element {}", sign, i));
        }
    }
}

void check_column_order(const QuantizedLinearWeights& weights) {
    if (!weights.column_order.defined()) return;
    if (weights.mul_scale.defined()) refuse(weights, "column_order and mul_scale do not go together");
    const std::int64_t k = weights.weight.columns;
    std::vector<bool> there(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) {
        const std::int64_t column = weights.column_order.as<std::int32_t>()[i];
        if (column < 0 || column >= k || there[static_cast<std::size_t>(column)]) {
            refuse(weights,
                   fmt::format("column_order must hold each of {} columns once, got {} at element {}", k,
                               column, i));
        }
        there[static_cast<std::size_t>(column)] = true;
    }
}

void check_low_rank(const QuantizedLinearWeights& weights) {
    const Tensor &l1 = weights.low_rank_l1, &l2 = weights.low_rank_l2;
    if (!l1.defined() && !l2.defined()) return;
    if (!l1.defined() || !l2.defined()) refuse(weights, "svd_lowrank_l1 and svd_lowrank_l2 go together");
    const std::int64_t rank = l1.shape().empty() ? 0 : l1.dim(0);
    const bool fits = rank > 0 && l1.shape() == Shape{rank, weights.weight.columns} &&
                      l2.shape() == Shape{weights.weight.rows, rank} && is_model_dtype(l1.dtype()) &&
                      is_model_dtype(l2.dtype());
    if (!fits) {
        refuse(weights,
               fmt::format("svd_lowrank_l1 and svd_lowrank_l2 must be f32, bf16 or f16 [r,{}] and "
                           "[{},r], got {} and {}",
                           weights.weight.columns, weights.weight.rows, l1.describe(), l2.describe()));
    }
}

void check_steps(const QuantizedLinearWeights& weights, const SchemeRow& scheme) {
    const std::int64_t entries = weights.steps();
    const bool needs_static = scheme.activation == Activation::per_tensor;
    const bool fits = !needs_static ? entries == 0 : (scheme.per_step ? entries >= 1 : entries == 1);
    if (!fits) {
        refuse(weights,
               fmt::format("needs {} static activation scales, got {}",
                           !needs_static ? "no" : (scheme.per_step ? "a step's" : "one set of"), entries));
    }
}

}  // namespace

void check_layer(const QuantizedLinearWeights& weights) {
    const SchemeRow& scheme = scheme_row("quantized_linear", weights.scheme);
    check_weight(weights, scheme);
    check_steps(weights, scheme);
    check_shapes(weights, scheme);
    check_rotation(weights);
    check_column_order(weights);
    check_low_rank(weights);
    for (std::int64_t step = 0; step < weights.steps(); ++step) check_static(weights, step);
    check_values(weights);
}

}  // namespace aerogel
