// The marks "<layer>.comfy_quant", the metadata "_quantization_metadata", and the older "scaled_fp8" with
// "<layer>.scale_weight"; then a reader for each format.
#include "quant/foreign/comfy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

constexpr std::string_view kMark = ".comfy_quant", kMetadata = "_quantization_metadata",
                           kScaledFp8 = "scaled_fp8", kOldScale = ".scale_weight";
constexpr std::int64_t kMarkLimit = 1 << 16;
constexpr std::int64_t kUsualGroup = 256;

// What a mark says.
struct Mark {
    std::string format;
    std::int64_t convrot = 0;  // columns per transform, 0: none
    bool wide = false;         // int4 weights with int8 activations
    std::string scale = ".weight_scale";
};

struct Layer {
    std::string prefix;
    Mark mark;
    std::int64_t n, k;
};

[[noreturn]] void refuse(const SafetensorsFile& file, const std::string& name, const std::string& wanted,
                         const std::string& got) {
    throw InvalidArgument(
        fmt::format("[quantize] {}: '{}' must be {}, got {}", file.path().string(), name, wanted, got));
}

Tensor required(const SafetensorsFile& file, const std::string& name) {
    if (!file.contains(name)) refuse(file, name, "in the file", "nothing");
    return file.tensor(name);
}

Tensor matrix(const SafetensorsFile& file, const Layer& layer, DType dtype, const Shape& shape) {
    Tensor stored = required(file, layer.prefix + ".weight");
    if (stored.dtype() != dtype || stored.shape() != shape) {
        refuse(file, layer.prefix + ".weight",
               fmt::format("{}{} ({})", to_string(dtype), to_string(shape), layer.mark.format),
               stored.describe());
    }
    return stored;
}

// One scale per row, or one of all rows.
Tensor row_scales(const SafetensorsFile& file, const Layer& layer) {
    const std::string name = layer.prefix + layer.mark.scale;
    const Tensor stored = required(file, name);
    const bool one = stored.count() == 1;
    if (!is_model_dtype(stored.dtype()) || (!one && stored.count() != layer.n)) {
        refuse(file, name, fmt::format("f32, bf16 or f16 [{},1] or one value", layer.n), stored.describe());
    }
    if (!one) return stored.to(DType::f32).reshaped({layer.n, 1});
    Tensor scales(DType::f32, {layer.n, 1});
    std::fill_n(scales.mutable_as<float>(), layer.n, stored.to(DType::f32).as<float>()[0]);
    return scales;
}

void rotate(const Layer& layer, QuantizedLinearWeights& weights) {
    const std::int64_t block = layer.mark.convrot;
    if (block == 0) return;
    weights.rotation_kind = RotationKind::convrot;
    weights.rotation = Tensor(DType::f32, {layer.k / block, block});
    std::fill_n(weights.rotation.mutable_as<float>(), layer.k, 1.0F);
}

QuantizedLinearWeights empty_layer(const Layer& layer, Format format) {
    QuantizedLinearWeights weights;
    weights.weight.format = format;
    weights.weight.rows = layer.n;
    weights.weight.columns = layer.k;
    rotate(layer, weights);
    return weights;
}

QuantizedLinearWeights read_int8(const SafetensorsFile& file, const Layer& layer) {
    QuantizedLinearWeights weights = empty_layer(layer, Format::int8);
    weights.weight.data = matrix(file, layer, DType::i8, {layer.n, layer.k});
    weights.weight.scale = row_scales(file, layer);
    return weights;
}

QuantizedLinearWeights read_fp8(const SafetensorsFile& file, const Layer& layer) {
    const bool e5m2 = layer.mark.format == "float8_e5m2";
    QuantizedLinearWeights weights = empty_layer(layer, e5m2 ? Format::fp8_e5m2 : Format::fp8_e4m3);
    weights.weight.data = matrix(file, layer, e5m2 ? DType::f8_e5m2 : DType::f8_e4m3, {layer.n, layer.k});
    weights.weight.scale = row_scales(file, layer);
    return weights;
}

QuantizedLinearWeights read_mxfp8(const SafetensorsFile& file, const Layer& layer) {
    QuantizedLinearWeights weights = empty_layer(layer, Format::mxfp8);
    weights.weight.data = matrix(file, layer, DType::f8_e4m3, {layer.n, layer.k});
    weights.weight.group_size = kMxBlock;
    const std::string name = layer.prefix + layer.mark.scale;
    const Tensor stored = required(file, name);
    const std::int64_t blocks = mx_blocks(layer.k), count = swizzled_count(layer.n, blocks);
    const bool bytes = stored.dtype() == DType::u8 || stored.dtype() == DType::f8_e8m0;
    if (!bytes || stored.count() != count) {
        refuse(file, name, fmt::format("u8 or f8_e8m0 of {} scales in tiles of 128 x 4", count),
               stored.describe());
    }
    weights.weight.scale = Tensor(DType::u8, {layer.n, blocks});
    const auto* from = static_cast<const std::uint8_t*>(stored.data());
    auto* to = weights.weight.scale.mutable_as<std::uint8_t>();
    for (std::int64_t row = 0; row < layer.n; ++row)
        for (std::int64_t block = 0; block < blocks; ++block)
            to[row * blocks + block] = from[swizzled_place(row, block, blocks)];
    return weights;
}

QuantizedLinearWeights read_int4_pairs(const SafetensorsFile& file, const Layer& layer) {
    QuantizedLinearWeights weights = empty_layer(layer, Format::int4);
    weights.weight.data = read_int4(matrix(file, layer, DType::i8, {layer.n, layer.k / 2}), layer.n, layer.k);
    weights.weight.scale = row_scales(file, layer);
    return weights;
}

struct Reader {
    std::string_view format;
    std::string_view scheme;
    QuantizedLinearWeights (*read)(const SafetensorsFile& file, const Layer& layer);
    bool pairs = false;    // two columns per byte
    bool rotated = false;  // always
};

constexpr std::array kReaders = std::to_array<Reader>({
    {"int8_tensorwise", "W8A8_DYNAMIC", read_int8},
    {"convrot_w4a4", "W4A4_DYNAMIC", read_int4_pairs, true, true},
    {"int4_convrot_w4a4", "W4A4_DYNAMIC", read_int4_pairs, true, true},
    {"float8_e4m3fn", "W8A16_FP8", read_fp8},
    {"float8_e5m2", "W8A16_FP8_E5M2", read_fp8},
    {"mxfp8", "W8A8_MXFP8", read_mxfp8},
});

const Reader* find_reader(const std::string& format) {
    const auto found = std::find_if(kReaders.begin(), kReaders.end(),
                                    [&](const Reader& reader) { return reader.format == format; });
    return found == kReaders.end() ? nullptr : &*found;
}

// A key of the object itself, or of its "params".
JsonNode setting(const JsonNode& json, std::string_view key) {
    if (json.has(key) || !json.has("params")) return json.at(key);
    return json.at("params").at(key);
}

// A format alone, or an object with its settings.
Mark mark_of(const JsonNode& json) {
    Mark mark;
    const bool alone = !json.is_object();
    mark.format = alone ? json.text() : json.at("format").text();
    const Reader* reader = find_reader(mark.format);
    const bool always = reader != nullptr && reader->rotated;
    if (alone) {
        mark.convrot = always ? kUsualGroup : 0;
        return mark;
    }
    const JsonNode rotated = setting(json, "convrot");
    if (always || (!rotated.is_null() && rotated.flag())) {
        const JsonNode group = setting(json, "convrot_groupsize");
        mark.convrot = group.is_null() ? kUsualGroup : group.whole({1, 1 << 20});
    }
    const JsonNode type = setting(json, "linear_dtype");
    constexpr std::array<std::string_view, 2> kTypes = {"int4", "int8"};
    mark.wide = !type.is_null() && type.word(kTypes) == "int8";
    return mark;
}

// Names as they stand in an error.
std::filesystem::path place_in(const SafetensorsFile& file, std::string_view what) {
    return file.path().string() + ": " + std::string(what);
}

Mark read_mark(const SafetensorsFile& file, const std::string& name) {
    const TensorInfo& info = file.info(name);
    if (info.dtype != DType::u8 || info.shape.size() != 1 || info.shape[0] > kMarkLimit)
        refuse(file, name, "the bytes of a JSON object, u8[...]",
               std::string(to_string(info.dtype)) + to_string(info.shape));
    const Tensor bytes = file.tensor(name);
    const std::string text(static_cast<const char*>(bytes.data()), bytes.bytes());
    return mark_of(JsonNode::parse(text, place_in(file, "'" + name + "'"), "quantize"));
}

using Marks = std::map<std::string, Mark>;  // by prefix

void add_marks_of_metadata(const SafetensorsFile& file, Marks& marks) {
    const auto metadata = file.metadata().find(std::string(kMetadata));
    if (metadata == file.metadata().end()) return;
    const JsonNode json = JsonNode::parse(metadata->second, place_in(file, kMetadata), "quantize");
    const JsonNode layers = json.at("layers");
    if (!layers.is_object()) layers.fail("an object");
    for (const auto& [name, value] : layers.json().items()) {
        std::string prefix = name;
        for (const char* start : {"model.diffusion_model.", "diffusion_model."})
            if (!file.contains(prefix + ".weight") && file.contains(start + name + ".weight"))
                prefix = start + name;
        if (marks.contains(prefix) || !file.contains(prefix + ".weight")) continue;
        marks[prefix] = mark_of(layers.at(name));
    }
}

void add_scaled_fp8(const SafetensorsFile& file, Marks& marks) {
    for (const std::string& name : file.names()) {
        if (!name.ends_with(kOldScale)) continue;
        const std::string prefix = name.substr(0, name.size() - kOldScale.size());
        if (marks.contains(prefix) || !file.contains(prefix + ".weight")) continue;
        const DType type = file.info(prefix + ".weight").dtype;
        if (type != DType::f8_e4m3 && type != DType::f8_e5m2) continue;
        marks[prefix] = {type == DType::f8_e4m3 ? "float8_e4m3fn" : "float8_e5m2", 0, false,
                         std::string(kOldScale)};
    }
}

// What belongs to the layer besides its weight.
constexpr std::array<std::string_view, 11> kParts = {
    ".weight_scale",    ".scale_weight",      ".input_scale",    ".scale_input",
    ".comfy_quant",     ".weight_scale_2",    ".weight_s_rel",   ".weight_s_channel",
    ".weight_codebook", ".weight_correction", ".pre_quant_scale"};

ForeignLayer foreign_layer(const SafetensorsFile& file, const std::string& prefix, const Mark& mark) {
    const TensorInfo& weight = file.info(prefix + ".weight");
    if (weight.shape.size() != 2 || element_count(weight.shape) == 0) {
        refuse(file, prefix + ".weight", "a matrix with at least one row and one column",
               std::string(to_string(weight.dtype)) + to_string(weight.shape));
    }
    const Reader* reader = find_reader(mark.format);
    Layer layer = {prefix, mark, weight.shape[0], weight.shape[1]};
    ForeignLayer out = {prefix, mark.format, upper_case(mark.format), {prefix + ".weight"}};
    for (const std::string_view part : kParts)
        if (file.contains(prefix + std::string(part))) out.tensors.push_back(prefix + std::string(part));
    if (reader != nullptr) {
        if (reader->pairs) layer.k *= 2;
        const std::int64_t block = mark.convrot;
        if (block != 0 && (!is_rotation_block({RotationKind::convrot, block}) || layer.k % block != 0)) {
            refuse(file, prefix + std::string(kMark) + " convrot_groupsize",
                   fmt::format("a power of four that divides the {} columns", layer.k),
                   std::to_string(block));
        }
        const bool wide = mark.wide && reader->pairs;
        const std::string scheme = wide ? "W4A8" : std::string(reader->scheme);
        out.quant_type = join_quant_type(
            {scheme, false, block == 0 ? std::nullopt : std::optional(RotationKind::convrot)});
        out.read = [read = reader->read, layer, scheme](const SafetensorsFile& from) {
            QuantizedLinearWeights weights = read(from, layer);
            weights.scheme = scheme;
            return weights;
        };
    }
    out.n = layer.n;
    out.k = layer.k;
    return out;
}

}  // namespace

std::string comfy_formats() {
    std::vector<std::string_view> names;
    for (const Reader& reader : kReaders) names.push_back(reader.format);
    return fmt::format("{}", fmt::join(names, ", "));
}

std::int64_t swizzled_place(std::int64_t row, std::int64_t block, std::int64_t blocks) {
    const std::int64_t tile = row / 128 * ((blocks + 3) / 4) + block / 4;
    return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4;
}

std::int64_t swizzled_count(std::int64_t rows, std::int64_t blocks) {
    return (rows + 127) / 128 * ((blocks + 3) / 4) * 512;
}

ForeignCheckpoint comfy_checkpoint(const SafetensorsFile& file) {
    Marks marks;
    ForeignCheckpoint checkpoint;
    for (const std::string& name : file.names()) {
        if (name.ends_with(kMark)) {
            const std::string prefix = name.substr(0, name.size() - kMark.size());
            if (!file.contains(prefix + ".weight"))
                refuse(file, prefix + ".weight", "in the file", "nothing");
            marks[prefix] = read_mark(file, name);
        } else if (name == kScaledFp8 || name.ends_with("." + std::string(kScaledFp8))) {
            checkpoint.marks.push_back(name);
        }
    }
    add_marks_of_metadata(file, marks);
    add_scaled_fp8(file, marks);
    if (marks.empty()) return {};
    checkpoint.program = "ComfyUI";
    // In the order of the file.
    for (const std::string& name : file.names()) {
        if (!name.ends_with(".weight")) continue;
        const auto mark = marks.find(name.substr(0, name.size() - 7));
        if (mark != marks.end()) checkpoint.layers.push_back(foreign_layer(file, mark->first, mark->second));
    }
    return checkpoint;
}

}  // namespace aerogel
