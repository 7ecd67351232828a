// The rows, and layers as named arrays.
#include "quant/layer_arrays.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "aerogel/error.h"
#include "formats/format.h"
#include "formats/mx.h"
#include "quant/quant_type.h"

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

constexpr std::array<LayerArray, 14> kArrays = {{
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

QuantizedLinearWeights layer_of_arrays(const LayerMeaning& meaning, const NamedArrays& arrays) {
    const SchemeRow& scheme = scheme_row("quantized_linear", split_quant_type(meaning.scheme).scheme);
    QuantizedLinearWeights layer;
    layer.scheme = scheme.name;
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

}  // namespace aerogel
