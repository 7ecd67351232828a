// One layer from float to its stored tensors.
#include "quant/export_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "core/finite.h"
#include "core/text.h"
#include "formats/format.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/minmax.h"
#include "quant/algorithms/weight_rows.h"
#include "quant/foreign/comfy_writer.h"
#include "quant/layer_arrays.h"
#include "quant/restore.h"

namespace aerogel {
namespace {

constexpr std::string_view kWeightEnding = ".weight";
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
    return form.layout != PairLayout::v0 || scheme_of(form).float32;
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

RotationShape rotation_shape(const LayerOptions& options) {
    return {options.rotation_kind, options.rotation_block};
}

ArraySizes sizes_of(const StoredForm& form) {
    ArraySizes sizes;
    sizes.n = rows_of(form);
    sizes.k = columns_of(form);
    sizes.dual_blocks = mx_dual_blocks(sizes.k);
    sizes.rank = form.options.low_rank;
    if (form.options.rotation_block != 0) {
        sizes.rotation_block = rotation_block(sizes.k, rotation_shape(form.options));
    }
    if (scheme_of(form).per_step) sizes.steps = form.calibration->steps();
    return sizes;
}

// Static scales of one step have no axis of steps; single values are one row of a matrix, or alone [1].
Shape stored_shape(const LayerArray& array, const StoredForm& form) {
    const ArraySizes sizes = sizes_of(form);
    Shape shape = array.shape(sizes);
    if (shape.empty() || array.form == ArrayForm::dual_scale) shape.push_back(1);
    if (array.by_step && scheme_of(form).per_step) shape.insert(shape.begin(), sizes.steps);
    return shape;
}

StoredType stored_type(const LayerArray& array, const StoredForm& form) {
    const DType model = form.weight.dtype, plain = is_wide(form) ? DType::f32 : model;
    switch (array.form) {
        case ArrayForm::weight:
            return weight_type(form);
        case ArrayForm::scale:
        case ArrayForm::offset:
            return scale_type(form);
        case ArrayForm::floats:
        case ArrayForm::whole: {
            const bool own = array.part == &LayerParts::bias && !is_wide(form);
            return {own ? form.bias->dtype : plain, stored_shape(array, form)};
        }
        case ArrayForm::integers:
            return {DType::i32, stored_shape(array, form)};
        case ArrayForm::bits:
            return {deq_scale_type(form), stored_shape(array, form)};
        case ArrayForm::signs:
            return {DType::i8, stored_shape(array, form)};
        case ArrayForm::factors:
            return {model, stored_shape(array, form)};
        case ArrayForm::dual_scale:
        case ArrayForm::ignored:
            break;
    }
    return {DType::f32, stored_shape(array, form)};
}

// In the order of the files: the bias stands behind the weight in v0. Static int8 layers have no scales of
// the weight in v1, as deq_scale holds them, and quant_bias behind the weight.
std::vector<const LayerArray*> stored_arrays(const StoredForm& form) {
    const SchemeRow& scheme = scheme_of(form);
    const LayerOptions& options = form.options;
    const LayerParts parts{form.bias.has_value(), options.rotation_block != 0, options.low_rank != 0,
                           !options.smoothing.empty()};
    const bool v1 = form.layout == PairLayout::v1;
    const bool bare = v1 && scheme.activation == Activation::per_tensor && scheme.weight == Format::int8;
    std::vector<const LayerArray*> arrays;
    for (const LayerArray& array : layer_arrays()) {
        if (array.form == ArrayForm::ignored || !array.fits(scheme)) continue;
        if (array.part != nullptr && !(parts.*array.part)) continue;
        if (bare && (array.form == ArrayForm::scale || array.form == ArrayForm::offset)) continue;
        const bool second = v1 ? bare && array.form == ArrayForm::integers : array.part == &LayerParts::bias;
        arrays.insert(second ? arrays.begin() + 1 : arrays.end(), &array);
    }
    return arrays;
}

// A smoothed layer's own tensors stand under "<layer>.linear".
std::string full_name(const LayerArray& array, const StoredForm& form) {
    const std::string layer = form.layer();
    return stored_name(array, layer, form.options.smoothing.empty() ? layer : layer + ".linear");
}

// f32 as int64 bit patterns.
Tensor bits_of(const Tensor& values) {
    Tensor bits(DType::i64, values.shape());
    std::transform(values.as<float>(), values.as<float>() + values.count(), bits.mutable_as<std::int64_t>(),
                   [](float x) { return std::bit_cast<std::int32_t>(x); });
    return bits;
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

// One array of the quantized layer as it is stored.
Tensor stored_array(const LayerArray& array, const StoredForm& form, const QuantizedLinearWeights& chosen) {
    const StoredType type = stored_type(array, form);
    const Tensor& tensor = array.in(chosen);
    if (array.form == ArrayForm::weight) {
        return chosen.weight.format == Format::int4 ? write_int4(chosen.weight, int4_layout(form.options))
                                                    : tensor;
    }
    if (!tensor.defined()) return Tensor::zeros(type.dtype, type.shape);  // an offset
    if (type.dtype == DType::i64) return bits_of(tensor).reshaped(type.shape);
    return (tensor.dtype() == type.dtype ? tensor : tensor.to(type.dtype)).reshaped(type.shape);
}

// Pairs in one byte come out even.
void check_pairs(const StoredForm& form) {
    const LayerOptions& options = form.options;
    const Format format = scheme_of(form).weight;
    const Shape& shape = form.weight.shape;
    const bool rows = options.packed && options.weight.group_size != 0;
    const bool columns = !rows && (options.packed || format == Format::mxfp4 || format == Format::mxfp4_dual);
    if ((rows && shape[0] % 2 != 0) || (columns && shape[1] % 2 != 0)) {
        throw InvalidArgument(fmt::format("[quantize] {} {} cannot be packed: it has an odd number of {}",
                                          form.layer(), to_string(shape), rows ? "rows" : "columns"));
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

struct RowError {
    double error = 0.0;  ///< sum of squares
    double norm = 0.0;
};

// Sums in lanes, so that they become vector code.
RowError row_error(const float* x, const float* y, std::int64_t count) {
    constexpr std::int64_t kLanes = 8;
    std::array<double, kLanes> error = {}, norm = {};
    const auto add = [&](std::int64_t i, std::size_t lane) {
        const double value = x[i], difference = value - static_cast<double>(y[i]);
        error[lane] += difference * difference;
        norm[lane] += value * value;
    };
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, static_cast<std::size_t>(lane));
    }
    for (; i < count; ++i) add(i, 0);
    return {std::accumulate(error.begin(), error.end(), 0.0), std::accumulate(norm.begin(), norm.end(), 0.0)};
}

// Row by row, so that no copy of the matrix is needed.
double relative_error(const TensorView& weight, const QuantizedLinearWeights& layer) {
    const QuantizedTensor& quantized = layer.weight;
    const bool plain = !layer.rotation.defined() && !layer.low_rank_l1.defined();
    const Tensor whole = plain ? Tensor() : restored_weight(layer);
    const auto columns = static_cast<std::size_t>(quantized.columns);
    std::vector<RowError> rows(static_cast<std::size_t>(quantized.rows));
    run_operation([&] {
        std::vector<float> scratch(2 * static_cast<std::size_t>(num_threads()) * columns);
        parallel_for(quantized.rows, [&](std::int64_t row, int worker) {
            float* original = scratch.data() + 2 * static_cast<std::size_t>(worker) * columns;
            float* decoded = original + columns;
            widen_row(weight, row, original);
            if (plain) {
                decode_row(quantized, row, decoded);
            } else {
                std::copy_n(whole.as<float>() + row * quantized.columns, columns, decoded);
            }
            rows[static_cast<std::size_t>(row)] = row_error(original, decoded, quantized.columns);
        });
    });
    RowError sum;
    for (const RowError& row : rows) {
        sum.error += row.error;
        sum.norm += row.norm;
    }
    return sum.norm == 0.0 ? 0.0 : std::sqrt(sum.error / sum.norm);
}

}  // namespace

Tensor StoredForm::inputs() const {
    return needs_inputs(*options.scheme, options) ? calibration->inputs(layer()).rows : Tensor();
}

std::string StoredForm::layer() const {
    return weight.name.substr(0, weight.name.size() - kWeightEnding.size());
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
        throw InvalidArgument(
            scheme.needs_calibration
                ? fmt::format("[quantize] {} needs calibration", scheme.name)
                : fmt::format(
                      "[quantize] algorithms and smoothing that look at recorded inputs (here of {}) need a "
                      "calibration that holds them, of aerogel quantize --save-calibration",
                      scheme.name));
    }
    if (scheme.needs_calibration) form.calibration->range(form.layer());
    if (inputs) check_inputs(form);
    check_fit(form.layer(), form.weight.shape, form.options);
    check_pairs(form);
    if (form.layout == PairLayout::comfy) check_comfy_form(form);
}

std::vector<StoredTensor> stored_tensors(const StoredForm& form) {
    if (form.layout == PairLayout::comfy) return comfy_tensors(form);
    std::vector<StoredTensor> tensors;
    for (const LayerArray* array : stored_arrays(form)) {
        StoredType type = stored_type(*array, form);
        tensors.push_back({{full_name(*array, form), type.dtype, std::move(type.shape)}, array->is_float});
    }
    return tensors;
}

StoredLayer quantize_layer(const StoredForm& form, const FloatLayer& layer) {
    const SchemeRow& scheme = scheme_of(form);
    LayerChoices choices = form.options;
    choices.weight.narrow = form.layout != PairLayout::v1;
    choices.float32 = form.layout == PairLayout::comfy;
    QuantizedLinearWeights chosen = quantize_float(layer, scheme, choices);
    if (scheme.activation == Activation::per_tensor) {
        set_static_scales(chosen, input_scales(form, layer, chosen), layer.weight.dtype());
    }
    check_readable(layer.name, chosen);
    StoredLayer stored;
    if (form.layout == PairLayout::comfy) {
        stored.tensors = comfy_arrays(form, layer, chosen);
        stored.relative_error = relative_error(layer.weight, chosen);
        return stored;
    }
    for (const LayerArray* array : stored_arrays(form)) {
        stored.tensors.push_back(stored_array(*array, form, chosen));
        check_stored(full_name(*array, form), stored.tensors.back());
    }
    stored.relative_error = relative_error(layer.weight, chosen);
    return stored;
}

}  // namespace aerogel
