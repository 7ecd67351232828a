// One layer from float to its stored tensors.
#include "quant/export_layer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/thread_pool.h"
#include "formats/format.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/minmax.h"
#include "quant/restore.h"

namespace aerogel {
namespace {

constexpr std::string_view kLowRank1 = "svd_lowrank_l1", kLowRank2 = "svd_lowrank_l2";

struct StoredType {
    DType dtype;
    Shape shape;
};

// The older exporter stores deq_scale as int64 bit patterns unless the model is bfloat16.
DType deq_scale_type(DType model) {
    return model == DType::bf16 ? DType::f32 : DType::i64;
}

std::int64_t groups_of(const FloatLayer& layer, const ExportOptions& options) {
    const std::int64_t group = options.weight.group_size;
    return group == 0 ? 1 : layer.weight.dim(1) / group;
}

Int4Layout int4_layout(const ExportOptions& options) {
    if (!options.packed) return Int4Layout::bytes;
    return options.weight.group_size == 0 ? Int4Layout::column_pairs : Int4Layout::row_pairs;
}

StoredType weight_type(const FloatLayer& layer, const ExportOptions& options) {
    const Format format = options.scheme->weight;
    const std::int64_t n = layer.weight.dim(0), k = layer.weight.dim(1);
    if (format == Format::mxfp4 || format == Format::mxfp4_dual) return {DType::u8, {n, k / 2}};
    if (format != Format::int4) return {format_row(format).storage, layer.weight.shape()};
    switch (int4_layout(options)) {
        case Int4Layout::bytes:
            return {DType::i8, {n, k}};
        case Int4Layout::column_pairs:
            return {DType::i8, {n, k / 2}};
        case Int4Layout::row_pairs:
            return {DType::i8, {n / 2, k}};
    }
    return {};
}

// The older exporter keeps scales per row in the model's type and those of groups in float32.
StoredType scale_type(const FloatLayer& layer, const ExportOptions& options) {
    const std::int64_t n = layer.weight.dim(0);
    if (is_mx(options.scheme->weight)) return {DType::u8, {n, mx_blocks(layer.weight.dim(1))}};
    const bool wide = options.scheme->float32 || options.weight.group_size != 0;
    return {wide ? DType::f32 : layer.weight.dtype(), {n, groups_of(layer, options)}};
}

StoredType stored_type(std::string_view tensor, const FloatLayer& layer, const ExportOptions& options) {
    const DType model = layer.weight.dtype();
    const std::int64_t n = layer.weight.dim(0);
    const std::int64_t k = layer.weight.dim(1);
    if (tensor == "rotation") {
        const std::int64_t block = rotation_block(k, options.rotation_block);
        return {DType::i8, {k / block, block}};
    }
    if (tensor == kLowRank1) return {model, {options.low_rank, k}};
    if (tensor == kLowRank2) return {model, {n, options.low_rank}};
    const bool per_step = options.scheme->per_step;
    const std::int64_t steps = per_step ? options.calibration->steps() : 1;
    if (tensor == "weight") return weight_type(layer, options);
    if (tensor == "bias") {
        return {options.scheme->float32 ? DType::f32 : layer.bias.dtype(), layer.bias.shape()};
    }
    if (tensor == "weight_scale" || tensor == "weight_offset") return scale_type(layer, options);
    if (tensor == "weight_dual_scale") return {DType::f32, {n, mx_dual_blocks(layer.weight.dim(1)), 1}};
    if (tensor == "input_scale" || tensor == "input_offset") {
        return {model, per_step ? Shape{steps, 1} : Shape{1}};
    }
    const Shape per_channel = per_step ? Shape{steps, n} : Shape{n};
    return {tensor == "quant_bias" ? DType::i32 : deq_scale_type(model), per_channel};
}

// One of the weight's own arrays.
Tensor weight_tensor(std::string_view tensor, const QuantizedTensor& weight, const ExportOptions& options,
                     const StoredType& type) {
    if (tensor == "weight") {
        return weight.format == Format::int4 ? write_int4(weight, int4_layout(options)) : weight.data;
    }
    if (tensor == "weight_scale") return weight.scale.to(type.dtype);
    if (tensor == "weight_dual_scale") return weight.dual_scale.reshaped(type.shape);
    return weight.offset.defined() ? weight.offset.to(type.dtype) : Tensor::zeros(type.dtype, type.shape);
}

// The scheme's tensors with the bias behind the weight, then those of rotation and low-rank branch.
std::vector<std::string> tensor_names(const FloatLayer& layer, const ExportOptions& options) {
    std::vector<std::string> names(options.scheme->tensors.begin(), options.scheme->tensors.end());
    if (layer.bias.defined()) names.insert(names.begin() + 1, "bias");
    if (options.rotation_block != 0) names.emplace_back("rotation");
    if (options.low_rank != 0) names.insert(names.end(), {std::string(kLowRank1), std::string(kLowRank2)});
    return names;
}

// Copies f32 scales into int64 bit patterns or leaves them as they are.
void store_deq_scale(const Tensor& scale, std::int64_t first, const Tensor& out) {
    const auto* values = scale.as<float>();
    for (std::int64_t i = 0; i < scale.count(); ++i) {
        if (out.dtype() == DType::f32) {
            out.as<float>()[first + i] = values[i];
        } else {
            out.as<std::int64_t>()[first + i] = std::bit_cast<std::int32_t>(values[i]);
        }
    }
}

Tensor static_tensor(std::string_view tensor, const std::vector<StaticScales>& all, const StoredType& type) {
    const bool scalar = tensor == "input_scale" || tensor == "input_offset";
    Tensor out(scalar ? DType::f32 : type.dtype, type.shape);
    std::int64_t at = 0;
    for (const StaticScales& scales : all) {
        if (scalar) {
            out.as<float>()[at++] = tensor == "input_scale" ? scales.input_scale : scales.input_offset;
        } else if (tensor == "quant_bias") {
            const auto* values = scales.quant_bias.as<std::int32_t>();
            std::copy(values, values + scales.quant_bias.count(), out.as<std::int32_t>() + at);
            at += scales.quant_bias.count();
        } else {
            store_deq_scale(scales.deq_scale, at, out);
            at += scales.deq_scale.count();
        }
    }
    return scalar ? out.to(type.dtype) : out;
}

// One tensor of the quantized layer as it is stored.
Tensor tensor_of(std::string_view tensor, const FloatLayer& layer, const QuantizedLinearWeights& chosen,
                 const ExportOptions& options) {
    const StoredType type = stored_type(tensor, layer, options);
    if (tensor == "bias") return layer.bias.to(type.dtype);
    if (tensor == "rotation") return chosen.rotation.to(type.dtype);
    if (tensor == kLowRank1) return chosen.low_rank_l1;
    if (tensor == kLowRank2) return chosen.low_rank_l2;
    if (tensor.starts_with("weight")) return weight_tensor(tensor, chosen.weight, options, type);
    return static_tensor(tensor, chosen.static_scales, type);
}

std::vector<InputScale> input_scales(const FloatLayer& layer, const ExportOptions& options) {
    const CalibrationStats& stats = *options.calibration;
    std::vector<InputScale> scales;
    for (const InputRange& range : options.scheme->per_step
                                       ? stats.ranges_by_step(layer.name)
                                       : std::vector<InputRange>{stats.range(layer.name)}) {
        scales.push_back(asymmetric_int8(range, layer.weight.dtype()));
    }
    return scales;
}

double relative_error(const Tensor& weight, const Tensor& decoded) {
    const Tensor original = weight.to(DType::f32);
    const std::int64_t columns = weight.dim(1);
    const auto rows = static_cast<std::size_t>(weight.dim(0));
    std::vector<double> error(rows), norm(rows);
    parallel_for(weight.dim(0), [&](std::int64_t row, int) {
        const auto* x = original.as<float>() + row * columns;
        const auto* y = decoded.as<float>() + row * columns;
        for (std::int64_t i = 0; i < columns; ++i) {
            const double value = x[i], difference = value - static_cast<double>(y[i]);
            error[static_cast<std::size_t>(row)] += difference * difference;
            norm[static_cast<std::size_t>(row)] += value * value;
        }
    });
    double error_sum = 0.0, norm_sum = 0.0;
    for (std::size_t i = 0; i < rows; ++i) {
        error_sum += error[i];
        norm_sum += norm[i];
    }
    return norm_sum == 0.0 ? 0.0 : std::sqrt(error_sum / norm_sum);
}

}  // namespace

bool is_float_tensor(const std::string& name) {
    const std::string_view tensor = std::string_view(name).substr(name.rfind('.') + 1);
    return tensor == "bias" || tensor == kLowRank1 || tensor == kLowRank2;
}

std::vector<TensorInfo> stored_tensors(const FloatLayer& layer, const ExportOptions& options) {
    std::vector<TensorInfo> infos;
    for (const std::string& tensor : tensor_names(layer, options)) {
        StoredType type = stored_type(tensor, layer, options);
        infos.push_back({layer.name + "." + tensor, type.dtype, std::move(type.shape)});
    }
    return infos;
}

StoredLayer quantize_layer(const FloatLayer& layer, const ExportOptions& options) {
    const SchemeRow& scheme = *options.scheme;
    QuantizedLinearWeights chosen = quantize_float(layer, scheme, options);
    const QuantizedTensor& weight = chosen.weight;
    if (scheme.activation == Activation::per_tensor) {
        chosen.static_scales =
            static_scales(weight, chosen.bias, input_scales(layer, options), layer.weight.dtype());
    }
    StoredLayer stored;
    for (const std::string& tensor : tensor_names(layer, options)) {
        stored.tensors.push_back(tensor_of(tensor, layer, chosen, options));
    }
    stored.relative_error = relative_error(layer.weight, restored_weight(chosen));
    return stored;
}

}  // namespace aerogel
