// Our layers in ComfyUI's forms.
#include "quant/foreign/comfy_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "formats/format.h"
#include "formats/fp8.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "quant/algorithms/hadamard.h"
#include "quant/foreign/comfy.h"

namespace aerogel {
namespace {

struct Form {
    std::string_view scheme;
    std::string_view format;
    std::int64_t columns;     // must be a multiple of this, and
    std::int64_t rows;        // rows of this
    bool may_rotate = false;  // by convrot
    bool must_rotate = false;
    std::string_view linear_dtype = {};
};

constexpr std::array kForms = std::to_array<Form>({
    {.scheme = "W8A8_DYNAMIC", .format = "int8_tensorwise", .columns = 1, .rows = 1, .may_rotate = true},
    {.scheme = "W4A4_DYNAMIC",
     .format = "convrot_w4a4",
     .columns = 64,
     .rows = 1,
     .may_rotate = true,
     .must_rotate = true,
     .linear_dtype = "int4"},
    {.scheme = "W4A8",
     .format = "convrot_w4a4",
     .columns = 64,
     .rows = 1,
     .may_rotate = true,
     .must_rotate = true,
     .linear_dtype = "int8"},
    {.scheme = "W8A16_FP8", .format = "float8_e4m3fn", .columns = 1, .rows = 1},
    {.scheme = "W8A16_FP8_E5M2", .format = "float8_e5m2", .columns = 1, .rows = 1},
    {.scheme = "W8A8_MXFP8", .format = "mxfp8", .columns = 32, .rows = 32},
    {.scheme = "W8A16_MXFP8", .format = "mxfp8", .columns = 32, .rows = 32},
});

[[noreturn]] void refuse(const StoredForm& form, const std::string& why) {
    throw InvalidArgument(fmt::format("[quantize] layout comfy: {} {} {}: {}", form.layer(),
                                      form.options.quant_type(), to_string(form.weight.shape), why));
}

const Form& comfy_form(const StoredForm& form) {
    const std::string_view scheme = form.options.scheme->name;
    const auto found =
        std::find_if(kForms.begin(), kForms.end(), [&](const Form& row) { return row.scheme == scheme; });
    if (found != kForms.end()) return *found;
    std::string names;
    for (const Form& row : kForms) names += (names.empty() ? "" : ", ") + std::string(row.scheme);
    refuse(form, "ComfyUI has no form of this scheme; it has forms of: " + names);
}

std::int64_t convrot_block(const StoredForm& form) {
    if (form.options.rotation_block == 0) return 0;
    return rotation_block(form.weight.shape[1], {form.options.rotation_kind, form.options.rotation_block});
}

bool is_fp8(const StoredForm& form) {
    const Format format = form.options.scheme->weight;
    return format == Format::fp8_e4m3 || format == Format::fp8_e5m2;
}

std::string mark_of(const StoredForm& form) {
    const Form& row = comfy_form(form);
    nlohmann::ordered_json json = {{"format", row.format}};
    if (const std::int64_t block = convrot_block(form); block != 0) {
        if (!row.must_rotate) json["convrot"] = true;
        json["convrot_groupsize"] = block;
    }
    if (row.must_rotate) json["quant_group_size"] = 64;
    if (!row.linear_dtype.empty()) json["linear_dtype"] = row.linear_dtype;
    return dump_json(json);
}

Shape scale_shape(const StoredForm& form) {
    const std::int64_t n = form.weight.shape[0], k = form.weight.shape[1];
    if (is_fp8(form)) return {};
    if (form.options.scheme->weight == Format::int4) return {n};
    if (form.options.scheme->weight == Format::int8) return {n, 1};
    return {(n + 127) / 128 * 128, (mx_blocks(k) + 3) / 4 * 4};
}

// With one scale for all rows.
QuantizedTensor fp8_of_one_scale(const StoredForm& form, const Tensor& weight) {
    const Tensor values = weight.to(DType::f32);
    const auto* first = values.as<float>();
    float largest = 0.0F;
    for (std::int64_t i = 0; i < values.count(); ++i) largest = std::max(largest, std::fabs(first[i]));
    const bool e5m2 = form.options.scheme->weight == Format::fp8_e5m2;
    const float scale = largest / (e5m2 ? 57344.0F : 448.0F);
    Tensor scales(DType::f32, {values.dim(0), 1});
    std::fill_n(scales.mutable_as<float>(), scales.count(), scale < 0x1p-126F ? 1.0F : scale);
    return e5m2 ? encode_fp8_e5m2(values, scales) : encode_fp8_e4m3(values, scales);
}

Tensor swizzled(const Tensor& scale, const Shape& shape) {
    Tensor out = Tensor::zeros(DType::u8, shape);
    const std::int64_t blocks = scale.dim(1);
    for (std::int64_t row = 0; row < scale.dim(0); ++row) {
        for (std::int64_t block = 0; block < blocks; ++block) {
            out.mutable_as<std::uint8_t>()[swizzled_place(row, block, blocks)] =
                scale.as<std::uint8_t>()[row * blocks + block];
        }
    }
    return out;
}

Tensor bytes_of(const std::string& text) {
    Tensor bytes(DType::u8, {static_cast<std::int64_t>(text.size())});
    std::memcpy(bytes.mutable_data(), text.data(), text.size());
    return bytes;
}

}  // namespace

void check_comfy_form(const StoredForm& form) {
    const Form& row = comfy_form(form);
    const LayerOptions& options = form.options;
    const std::int64_t n = form.weight.shape[0], k = form.weight.shape[1], block = convrot_block(form);
    if (options.weight.group_size != 0) refuse(form, "its scales are those of whole rows, not of groups");
    if (options.low_rank != 0 || !options.smoothing.empty())
        refuse(form, "it has no low-rank branches and no smoothed inputs");
    if (block != 0 && (!row.may_rotate || options.rotation_kind != RotationKind::convrot))
        refuse(form,
               row.may_rotate ? "its rotation is --rotate convrot" : "it rotates no layers of this scheme");
    if (row.must_rotate && block == 0) refuse(form, "needs --rotate convrot");
    if (k % row.columns != 0 || n % row.rows != 0)
        refuse(form, fmt::format("rows must be a multiple of {} and columns of {}", row.rows, row.columns));
    if (is_fp8(form) && options.algorithm != "minmax")
        refuse(form, "has one scale for all rows: minmax only");
}

std::vector<StoredTensor> comfy_tensors(const StoredForm& form) {
    const std::string layer = form.layer();
    const Format format = form.options.scheme->weight;
    TensorInfo weight = {form.weight.name, format_row(format).storage, form.weight.shape};
    if (format == Format::int4) weight = {weight.name, DType::i8, {weight.shape[0], weight.shape[1] / 2}};
    std::vector<StoredTensor> tensors;
    tensors.push_back({weight, false});
    tensors.push_back(
        {{layer + ".weight_scale", is_mx(format) ? DType::u8 : DType::f32, scale_shape(form)}, false});
    const auto bytes = static_cast<std::int64_t>(mark_of(form).size());
    tensors.push_back({{layer + ".comfy_quant", DType::u8, {bytes}}, false});
    if (form.bias) tensors.push_back({*form.bias, true});
    return tensors;
}

std::vector<Tensor> comfy_arrays(const StoredForm& form, const FloatLayer& layer,
                                 QuantizedLinearWeights& chosen) {
    if (is_fp8(form)) chosen.weight = fp8_of_one_scale(form, layer.weight);
    const QuantizedTensor& weight = chosen.weight;
    std::vector<Tensor> arrays;
    arrays.push_back(weight.format == Format::int4 ? write_int4(weight, Int4Layout::column_pairs)
                                                   : weight.data);
    const Shape shape = scale_shape(form);
    if (is_mx(weight.format)) {
        arrays.push_back(swizzled(weight.scale, shape));
    } else if (shape.empty()) {
        Tensor one(DType::f32, {});
        one.mutable_as<float>()[0] = weight.scale.as<float>()[0];
        arrays.push_back(one);
    } else {
        arrays.push_back(weight.scale.reshaped(shape));
    }
    arrays.push_back(bytes_of(mark_of(form)));
    if (form.bias) arrays.push_back(layer.bias);
    return arrays;
}

}  // namespace aerogel
