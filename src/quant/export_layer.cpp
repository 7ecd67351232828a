// One layer from float to its stored tensors.
#include "quant/export_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "aerogel/error.h"
#include "core/finite.h"
#include "core/text.h"
#include "formats/format.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/minmax.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/ranges.h"
#include "quant/layer_check.h"
#include "quant/weight_error.h"

namespace aerogel {
namespace {

constexpr std::string_view kWeightEnding = ".weight";
constexpr std::string_view kLowRank1 = "svd_lowrank_l1", kLowRank2 = "svd_lowrank_l2",
                           kMulScale = "div.mul_scale";

struct StoredType {
    DType dtype;
    Shape shape;
};

const SchemeRow& scheme_of(const StoredForm& form) {
    return *form.options.scheme;
}

std::int64_t rows_of(const StoredForm& form) {
    return form.weight.shape[0];
}

std::int64_t columns_of(const StoredForm& form) {
    return form.weight.shape[1];
}

// The older exporter stores deq_scale as int64 bit patterns unless the model is bfloat16.
DType deq_scale_type(const StoredForm& form) {
    const bool bits = form.layout == PairLayout::v0 && form.weight.dtype != DType::bf16;
    return bits ? DType::i64 : DType::f32;
}

// Scales and biases are in the model's type in v0, except for schemes that v0 does not know.
bool is_wide(const StoredForm& form) {
    return form.layout == PairLayout::v1 || scheme_of(form).float32;
}

Int4Layout int4_layout(const LayerOptions& options) {
    if (!options.packed) return Int4Layout::bytes;
    return options.weight.group_size == 0 ? Int4Layout::column_pairs : Int4Layout::row_pairs;
}

StoredType weight_type(const StoredForm& form) {
    const Format format = scheme_of(form).weight;
    const std::int64_t n = rows_of(form), k = columns_of(form);
    if (format == Format::mxfp4 || format == Format::mxfp4_dual) return {DType::u8, {n, k / 2}};
    if (format != Format::int4) return {format_row(format).storage, form.weight.shape};
    switch (int4_layout(form.options)) {
        case Int4Layout::bytes:
            return {DType::i8, {n, k}};
        case Int4Layout::column_pairs:
            return {DType::i8, {n, k / 2}};
        case Int4Layout::row_pairs:
            return {DType::i8, {n / 2, k}};
    }
    return {};
}

// The scales of groups are float32 in both layouts.
StoredType scale_type(const StoredForm& form) {
    const std::int64_t n = rows_of(form), group = form.options.weight.group_size;
    if (is_mx(scheme_of(form).weight)) return {DType::u8, {n, mx_blocks(columns_of(form))}};
    const bool wide = is_wide(form) || group != 0;
    return {wide ? DType::f32 : form.weight.dtype, {n, group == 0 ? 1 : columns_of(form) / group}};
}

StoredType stored_type(std::string_view tensor, const StoredForm& form) {
    const std::int64_t n = rows_of(form);
    const bool per_step = scheme_of(form).per_step;
    const std::int64_t steps = per_step ? form.calibration->steps() : 1;
    const std::int64_t k = columns_of(form), rank = form.options.low_rank;
    if (tensor == "rotation") {
        const std::int64_t block = rotation_block(k, form.options.rotation_block);
        return {DType::i8, {k / block, block}};
    }
    if (tensor == kMulScale) return {is_wide(form) ? DType::f32 : form.weight.dtype, {k}};
    if (tensor == kLowRank1) return {form.weight.dtype, {rank, k}};
    if (tensor == kLowRank2) return {form.weight.dtype, {n, rank}};
    if (tensor == "weight") return weight_type(form);
    if (tensor == "bias") return {is_wide(form) ? DType::f32 : form.bias->dtype, form.bias->shape};
    if (tensor == "weight_scale" || tensor == "weight_offset") return scale_type(form);
    if (tensor == "weight_dual_scale") return {DType::f32, {n, mx_dual_blocks(k), 1}};
    if (tensor == "input_scale" || tensor == "input_offset") {
        return {is_wide(form) ? DType::f32 : form.weight.dtype, per_step ? Shape{steps, 1} : Shape{1}};
    }
    const Shape per_channel = per_step ? Shape{steps, n} : Shape{n};
    return {tensor == "quant_bias" ? DType::i32 : deq_scale_type(form), per_channel};
}

// One of the weight's own arrays.
Tensor weight_tensor(std::string_view tensor, const QuantizedTensor& weight, const StoredForm& form) {
    if (tensor == "weight") {
        return weight.format == Format::int4 ? write_int4(weight, int4_layout(form.options)) : weight.data;
    }
    const StoredType type = stored_type(tensor, form);
    if (tensor == "weight_scale") return weight.scale.to(type.dtype);
    if (tensor == "weight_dual_scale") return weight.dual_scale.reshaped(type.shape);
    return weight.offset.defined() ? weight.offset.to(type.dtype) : Tensor::zeros(type.dtype, type.shape);
}

// The scheme's tensors with the bias behind the weight (v0) or at the end (v1), then those of rotation and
// low-rank branch. Static int8 layers have other tensors in v1: no scales of the weight, as deq_scale holds
// them.
std::vector<std::string_view> tensor_names(const StoredForm& form) {
    constexpr std::array<std::string_view, 5> kStaticV1 = {"weight", "quant_bias", "input_scale",
                                                           "input_offset", "deq_scale"};
    const SchemeRow& scheme = scheme_of(form);
    const bool v1 = form.layout == PairLayout::v1;
    std::vector<std::string_view> names(scheme.tensors.begin(), scheme.tensors.end());
    if (v1 && scheme.activation == Activation::per_tensor && scheme.weight == Format::int8)
        names.assign(kStaticV1.begin(), kStaticV1.end());
    if (form.bias) names.insert(v1 ? names.end() : names.begin() + 1, "bias");
    if (form.options.rotation_block != 0) names.emplace_back("rotation");
    if (form.options.low_rank != 0) names.insert(names.end(), {kLowRank1, kLowRank2});
    if (!form.options.smoothing.empty()) names.emplace_back(kMulScale);
    return names;
}

// A smoothed layer's own tensors stand under "<layer>.linear".
std::string full_name(std::string_view tensor, const StoredForm& form) {
    const bool outer = tensor == kMulScale || tensor == kLowRank1 || tensor == kLowRank2;
    const bool inner = !form.options.smoothing.empty() && !outer;
    return form.layer() + (inner ? ".linear." : ".") + std::string(tensor);
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

// Ranges of what the weight meets where smoothing or rotation come first: of the sampled rows, those of step
// t and later for step t, as ranges_by_step() does.
std::vector<InputRange> sampled_ranges(const StoredForm& form, const FloatLayer& layer,
                                       const QuantizedLinearWeights& chosen) {
    const Tensor x = transformed_inputs(layer.inputs, chosen);
    const std::vector<int> steps = form.calibration->inputs(layer.name).steps;
    const std::int64_t columns = x.dim(1);
    std::vector<InputRange> of_step(static_cast<std::size_t>(form.calibration->steps()));
    for (std::size_t row = 0; row < steps.size(); ++row) {
        const float* values = x.as<float>() + static_cast<std::int64_t>(row) * columns;
        const InputRange range = range_of({values, static_cast<std::size_t>(columns)});
        InputRange& own = of_step.at(static_cast<std::size_t>(steps[row]));
        own = {std::min(own.min, range.min), std::max(own.max, range.max)};
    }
    for (std::size_t step = of_step.size() - 1; step-- > 0;) {
        of_step[step].min = std::min(of_step[step].min, of_step[step + 1].min);
        of_step[step].max = std::max(of_step[step].max, of_step[step + 1].max);
    }
    if (!scheme_of(form).per_step) of_step.resize(1);
    return of_step;
}

std::vector<InputScale> input_scales(const StoredForm& form, const FloatLayer& layer,
                                     const QuantizedLinearWeights& chosen) {
    const CalibrationStats& stats = *form.calibration;
    std::vector<InputRange> ranges;
    if (chosen.mul_scale.defined() || chosen.rotation.defined()) {
        ranges = sampled_ranges(form, layer, chosen);
    } else {
        ranges = scheme_of(form).per_step ? stats.ranges_by_step(form.layer())
                                          : std::vector<InputRange>{stats.range(form.layer())};
    }
    std::vector<InputScale> scales;
    for (const InputRange& range : ranges) {
        scales.push_back(asymmetric_scale(range, form.weight.dtype, scheme_of(form).static_bits));
    }
    return scales;
}

// One tensor of the quantized layer as it is stored.
Tensor tensor_of(std::string_view tensor, const StoredForm& form, const FloatLayer& layer,
                 const QuantizedLinearWeights& chosen) {
    const StoredType type = stored_type(tensor, form);
    if (tensor == "bias") return layer.bias.to(type.dtype);
    if (tensor == "rotation") return chosen.rotation.to(type.dtype);
    if (tensor == kMulScale) return chosen.mul_scale.to(type.dtype);
    if (tensor == kLowRank1) return chosen.low_rank_l1;
    if (tensor == kLowRank2) return chosen.low_rank_l2;
    if (tensor.starts_with("weight")) return weight_tensor(tensor, chosen.weight, form);
    return static_tensor(tensor, chosen.static_scales, type);
}

// Groups divide the columns, and pairs in one byte come out even.
void check_shape(const StoredForm& form) {
    const LayerOptions& options = form.options;
    const Format format = scheme_of(form).weight;
    const Shape& shape = form.weight.shape;
    const std::int64_t group = options.weight.group_size, largest = std::min(shape[0], shape[1]);
    if (group != 0 && shape[1] % group != 0) {
        throw InvalidArgument(
            fmt::format("[quantize] the {} columns of {} {} are no multiple of the group size {}", shape[1],
                        form.layer(), to_string(shape), group));
    }
    const bool rows = options.packed && group != 0;
    const bool columns = !rows && (options.packed || format == Format::mxfp4 || format == Format::mxfp4_dual);
    if ((rows && shape[0] % 2 != 0) || (columns && shape[1] % 2 != 0)) {
        throw InvalidArgument(fmt::format("[quantize] {} {} cannot be packed: it has an odd number of {}",
                                          form.layer(), to_string(shape), rows ? "rows" : "columns"));
    }
    if (options.rotation_block != 0) rotation_block(shape[1], options.rotation_block);
    if (options.low_rank > largest) {
        throw InvalidArgument(fmt::format("[quantize] the rank must be at most {} for {} {}, got {}", largest,
                                          form.layer(), to_string(shape), options.low_rank));
    }
}

// What no reader takes is not written.
void check_readable(const std::string& layer, const QuantizedLinearWeights& chosen) {
    try {
        check_layer(chosen);
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(fmt::format("[quantize] {}: {}", layer, error.what()));
    }
}

// Values may leave the range of the type that they are stored in.
void check_stored(const std::string& name, const Tensor& stored) {
    const auto bad = first_not_finite(stored);
    if (!bad) return;
    const Tensor values = stored.to(DType::f32);
    throw InvalidArgument(fmt::format("[quantize] {} would be {} at element {} as {}", in_quotes(name),
                                      values.as<float>()[*bad], *bad, to_string(stored.dtype())));
}

void check_inputs(const StoredForm& form) {
    const Tensor rows = form.inputs();
    if (rows.dim(1) == columns_of(form)) return;
    throw InvalidArgument(fmt::format("[quantize] the kept inputs of {} {} have {} columns", form.layer(),
                                      to_string(form.weight.shape), rows.dim(1)));
}

}  // namespace

Tensor StoredForm::inputs() const {
    return needs_inputs(*options.scheme, options) ? calibration->inputs(layer()).rows : Tensor();
}

std::string StoredForm::layer() const {
    return weight.name.substr(0, weight.name.size() - kWeightEnding.size());
}

bool is_float_tensor(const std::string& name) {
    const std::string_view tensor = std::string_view(name).substr(name.rfind('.') + 1);
    return tensor == "bias" || tensor == "mul_scale" || tensor == kLowRank1 || tensor == kLowRank2;
}

void check_form(const StoredForm& form) {
    const SchemeRow& scheme = scheme_of(form);
    check_float_layer(form.layer(), form.weight, form.bias ? &*form.bias : nullptr);
    check_choices(scheme, form.options);
    if (form.options.packed && scheme.weight != Format::int4) {
        throw InvalidArgument(fmt::format("[quantize] packing is for int4 weights, {} has {}", scheme.name,
                                          to_string(scheme.weight)));
    }
    const bool inputs = needs_inputs(scheme, form.options);
    if ((scheme.needs_calibration || inputs) && form.calibration == nullptr) {
        throw InvalidArgument(fmt::format("[quantize] {} needs calibration", scheme.name));
    }
    if (scheme.needs_calibration) form.calibration->range(form.layer());
    if (inputs) check_inputs(form);
    check_shape(form);
}

std::vector<TensorInfo> stored_tensors(const StoredForm& form) {
    std::vector<TensorInfo> infos;
    for (const std::string_view tensor : tensor_names(form)) {
        StoredType type = stored_type(tensor, form);
        infos.push_back({full_name(tensor, form), type.dtype, std::move(type.shape)});
    }
    return infos;
}

StoredLayer quantize_layer(const StoredForm& form, const FloatLayer& layer) {
    const SchemeRow& scheme = scheme_of(form);
    LayerChoices choices = form.options;
    choices.weight.narrow = form.layout == PairLayout::v0;
    QuantizedLinearWeights chosen = quantize_float(layer, scheme, choices);
    if (scheme.activation == Activation::per_tensor) {
        chosen.static_scales = static_scales(chosen.weight, chosen.bias, input_scales(form, layer, chosen),
                                             layer.weight.dtype());
    }
    check_readable(layer.name, chosen);
    StoredLayer stored;
    for (const std::string_view tensor : tensor_names(form)) {
        stored.tensors.push_back(tensor_of(tensor, form, layer, chosen));
        check_stored(full_name(tensor, form), stored.tensors.back());
    }
    stored.relative_error = relative_error(layer.weight, chosen);
    return stored;
}

}  // namespace aerogel
