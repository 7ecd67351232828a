// How the words lie (AutoGPTQ's QuantLinear.pack, AutoAWQ's WQLinear_GEMM, AutoRound's exporters), and ours.
#include "quant/foreign/packed_integers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "core/json.h"
#include "core/paths.h"
#include "formats/mx.h"
#include "formats/mxfp4.h"
#include "formats/nibbles.h"
#include "quant/algorithms/model_dtype.h"

namespace aerogel {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kMethods = {"gptq", "awq", "auto-round"};
constexpr std::string_view kWords = ".qweight", kPackedMx = ".weight_packed";

enum class Packing : std::uint8_t { gptq, awq, mx };

// What the configuration says of all layers.
struct PackedConfig {
    Packing packing = Packing::gptq;
    std::string method;
    int bits = 4;
    std::int64_t group_size = 0;  // 0: the whole row
    int zero_shift = 0;           // GPTQ's first format stores zeros less one
};

[[noreturn]] void refuse_packed(const SafetensorsFile& file, const std::string& name,
                                const std::string& wanted, const std::string& got) {
    throw InvalidArgument(
        fmt::format("[quantize] {}: '{}' must be {}, got {}", file.path().string(), name, wanted, got));
}

// The configuration's object, and where it stands.
JsonNode find_config(const SafetensorsFile& file) {
    const fs::path folder = file.path().parent_path();
    for (const char* name : {"quantization_config.json", "quantize_config.json"})
        if (path_exists(folder / name)) return JsonNode::read(folder / name, "quantize");
    if (path_exists(folder / "config.json")) {
        const JsonNode config = JsonNode::read(folder / "config.json", "quantize");
        if (config.has("quantization_config")) return config.at("quantization_config");
    }
    throw InvalidArgument(fmt::format(
        "[quantize] {} holds packed integers, but {} has no quantization_config.json, no "
        "quantize_config.json and no config.json with a quantization_config, which says what they are",
        file.path().string(), folder.empty() ? "." : folder.string()));
}

// AutoRound's words for how integers are packed; the first alone stores zeros less one.
constexpr std::array<std::string_view, 4> kRoundPackings = {"auto_round:auto_gptq", "auto_round:gptqmodel",
                                                            "auto_round", "auto_round:auto_awq"};
constexpr std::array<std::string_view, 3> kIntegerTypes = {"int", "int_sym", "int_asym"};
constexpr std::array<std::string_view, 2> kAwqVersions = {"gemm", "GEMM"};

std::string word_or(const JsonNode& json, std::string_view key, std::string otherwise) {
    if (json.has(key)) return json.at(key).text();
    return otherwise;
}

bool contains(std::string_view text, std::string_view part) {
    return text.find(part) != std::string_view::npos;
}

// One setting of a single layer, which must be as all layers have it.
void check_same(const JsonNode& layer, const char* key, std::int64_t wanted) {
    if (layer.has(key) && layer.at(key).whole({-1, 1 << 20}) != wanted)
        layer.at(key).fail(fmt::format("{}, as of all other layers", wanted));
}

// Settings of single layers by name or pattern (AutoRound, GPTQModel). Layers that stay float have no words.
void check_exceptions(const JsonNode& json, const PackedConfig& config) {
    constexpr std::int64_t kFloatBits = 16;
    for (const char* key : {"extra_config", "dynamic"}) {
        if (!json.has(key)) continue;
        const JsonNode layers = json.at(key);
        if (!layers.is_object()) layers.fail("an object");
        for (const auto& [name, value] : layers.json().items()) {
            if (name.starts_with("-:")) continue;  // GPTQModel: left out
            const JsonNode layer = layers.at(name);
            if (!layer.is_object()) layer.fail("an object");
            if (layer.has("bits") && layer.at("bits").whole({1, 64}) >= kFloatBits) continue;
            check_same(layer, "bits", config.bits);
            check_same(layer, "group_size", config.group_size == 0 ? -1 : config.group_size);
        }
    }
}

// How integers lie; MX has a packing of its own.
void read_packing(const JsonNode& json, PackedConfig& config) {
    if (contains(word_or(json, "data_type", "int"), "mx_fp")) {
        config.packing = Packing::mx;
        return;
    }
    if (json.has("data_type")) json.at("data_type").word(kIntegerTypes);
    if (config.method == "awq") {
        if (json.has("version")) json.at("version").word(kAwqVersions);
        config.packing = Packing::awq;
    } else if (config.method == "gptq") {
        config.zero_shift = word_or(json, "checkpoint_format", "gptq") == "gptq_v2" ? 0 : 1;
    } else {
        const bool named = json.has("packing_format");
        const std::string_view packing =
            named ? json.at("packing_format").word(kRoundPackings) : kRoundPackings[0];
        config.packing = packing == kRoundPackings.back() ? Packing::awq : Packing::gptq;
        config.zero_shift = packing == kRoundPackings.front() ? 1 : 0;
    }
}

PackedConfig read_config(const JsonNode& json) {
    PackedConfig config;
    // AutoGPTQ's quantize_config.json does not name itself.
    config.method = json.has("quant_method") ? json.at("quant_method").word(kMethods) : "gptq";
    const JsonNode bits = json.has("bits") ? json.at("bits") : json.at("w_bit");
    config.bits = static_cast<int>(bits.whole({1, 16}));
    const JsonNode group = json.has("group_size") ? json.at("group_size") : json.at("q_group_size");
    const std::int64_t size = group.whole({-1, 1 << 20});
    config.group_size = size == -1 ? 0 : size;
    read_packing(json, config);
    if (config.bits != 8 && config.bits != 4) bits.fail("4 or 8");
    if (config.packing == Packing::awq && config.bits != 4) bits.fail("4 in AWQ's order");
    check_exceptions(json, config);
    return config;
}

// One layer's words.
struct PackedLayer {
    std::string prefix;
    PackedConfig config;
    std::int64_t n = 0, k = 0, groups = 1;
};

// Where an integer stands: the word, and the bits of it from the lowest on.
struct WordPlace {
    std::int64_t word;
    int shift;
};

constexpr std::array<int, 8> kAwqPlaces = {0, 4, 1, 5, 2, 6, 3, 7};  // of columns 0 .. 7 in a word

// Along an axis of so many per word.
WordPlace place_along(std::int64_t index, int bits, bool awq) {
    const std::int64_t per_word = 32 / bits, inner = index % per_word;
    const int at = awq ? kAwqPlaces[static_cast<std::size_t>(inner)] : static_cast<int>(inner);
    return {index / per_word, at * bits};
}

Tensor words_of(const SafetensorsFile& file, const std::string& name, const Shape& shape) {
    if (!file.contains(name)) refuse_packed(file, name, "in the file", "nothing");
    const Tensor stored = file.tensor(name);
    if (stored.dtype() != DType::i32 || stored.shape() != shape)
        refuse_packed(file, name, "i32" + to_string(shape), stored.describe());
    return stored.clone();
}

int code_at(const std::int32_t* words, std::int64_t index, int shift, int bits) {
    return static_cast<int>(static_cast<std::uint32_t>(words[index]) >> shift & ((1U << bits) - 1));
}

// The integers less half of their range: i8 [n,k], or two columns per byte. `order`: of the columns, or
// undefined.
Tensor unpacked_weight(const SafetensorsFile& file, const PackedLayer& layer, const Tensor& order) {
    const int bits = layer.config.bits, half = 1 << (bits - 1);
    const std::int64_t per_word = 32 / bits;
    const bool awq = layer.config.packing == Packing::awq;
    const Shape shape = awq ? Shape{layer.k, layer.n / per_word} : Shape{layer.k / per_word, layer.n};
    const Tensor stored = words_of(file, layer.prefix + std::string(kWords), shape);
    const auto* words = stored.as<std::int32_t>();
    const bool nibbles = bits == 4;
    Tensor out =
        Tensor::zeros(nibbles ? DType::u8 : DType::i8, {layer.n, nibbles ? (layer.k + 1) / 2 : layer.k});
    auto* bytes = static_cast<std::uint8_t*>(out.mutable_data());
    const std::int64_t row_bytes = out.dim(1);
    parallel_for(layer.n, [&](std::int64_t row, int) {
        const WordPlace own = place_along(row, bits, awq);
        for (std::int64_t column = 0; column < layer.k; ++column) {
            const std::int64_t from = order.defined() ? order.as<std::int32_t>()[column] : column;
            const WordPlace place = place_along(from, bits, false);
            const std::int64_t index = awq ? from * shape[1] + own.word : place.word * shape[1] + row;
            const int code = code_at(words, index, awq ? own.shift : place.shift, bits) - half;
            const auto byte = static_cast<std::uint8_t>(code & ((1 << bits) - 1));
            if (nibbles)
                bytes[row * row_bytes + column / 2] |= static_cast<std::uint8_t>(byte << (column % 2 * 4));
            else
                bytes[row * row_bytes + column] = byte;
        }
    });
    return out;
}

// f32 [n,groups] of what is stored as [groups,n].
Tensor transposed_scales(const SafetensorsFile& file, const PackedLayer& layer) {
    const std::string name = layer.prefix + ".scales";
    const Shape shape = {layer.groups, layer.n};
    const Tensor stored = file.tensor(name);
    if (!is_model_dtype(stored.dtype()) || stored.shape() != shape)
        refuse_packed(file, name, "f32, bf16 or f16 " + to_string(shape), stored.describe());
    const Tensor values = stored.to(DType::f32);
    Tensor scale(DType::f32, {layer.n, layer.groups});
    for (std::int64_t group = 0; group < layer.groups; ++group)
        for (std::int64_t row = 0; row < layer.n; ++row)
            scale.mutable_as<float>()[row * layer.groups + group] = values.as<float>()[group * layer.n + row];
    return scale;
}

// Zeros less half of the range, or undefined where all are that half.
Tensor offsets_of(const SafetensorsFile& file, const PackedLayer& layer) {
    const int bits = layer.config.bits, half = 1 << (bits - 1);
    const std::int64_t per_word = 32 / bits;
    const Tensor stored = words_of(file, layer.prefix + ".qzeros", {layer.groups, layer.n / per_word});
    const auto* words = stored.as<std::int32_t>();
    Tensor offset(DType::f32, {layer.n, layer.groups});
    bool any = false;
    for (std::int64_t row = 0; row < layer.n; ++row) {
        const WordPlace place = place_along(row, bits, layer.config.packing == Packing::awq);
        for (std::int64_t group = 0; group < layer.groups; ++group) {
            const int code = code_at(words, group * stored.dim(1) + place.word, place.shift, bits);
            // Zero less one is stored as the largest code.
            const int zero = ((code + layer.config.zero_shift) & ((1 << bits) - 1)) - half;
            any = any || zero != 0;
            offset.mutable_as<float>()[row * layer.groups + group] = static_cast<float>(zero);
        }
    }
    return any ? offset : Tensor();
}

// Act order (desc_act) deals columns to groups in another order than their own: the columns of one group
// after the other, as ExLlama's and Marlin's kernels take them. Undefined where that is their own order.
Tensor column_order(const SafetensorsFile& file, const PackedLayer& layer) {
    const std::string name = layer.prefix + ".g_idx";
    if (!file.contains(name)) return {};
    const Tensor groups = words_of(file, name, {layer.k});
    const std::int64_t width = layer.k / layer.groups;
    std::vector<std::int64_t> filled(static_cast<std::size_t>(layer.groups));
    Tensor order(DType::i32, {layer.k});
    bool own = true;
    for (std::int64_t column = 0; column < layer.k; ++column) {
        const std::int64_t group = groups.as<std::int32_t>()[column];
        if (group < 0 || group >= layer.groups || filled[static_cast<std::size_t>(group)] == width) {
            refuse_packed(file, name, fmt::format("{} columns in each of {} groups", width, layer.groups),
                          fmt::format("{} for column {}", group, column));
        }
        const std::int64_t place = group * width + filled[static_cast<std::size_t>(group)]++;
        order.mutable_as<std::int32_t>()[place] = static_cast<std::int32_t>(column);
        own = own && place == column;
    }
    return own ? Tensor() : order;
}

QuantizedLinearWeights read_words(const SafetensorsFile& file, const PackedLayer& layer) {
    QuantizedLinearWeights weights;
    weights.column_order = column_order(file, layer);
    weights.scheme = layer.config.bits == 4 ? "W4A16" : "W8A16";
    weights.weight.format = layer.config.bits == 4 ? Format::int4 : Format::int8;
    weights.weight.rows = layer.n;
    weights.weight.columns = layer.k;
    weights.weight.group_size = layer.groups == 1 ? 0 : layer.k / layer.groups;
    weights.weight.data = unpacked_weight(file, layer, weights.column_order);
    weights.weight.scale = transposed_scales(file, layer);
    weights.weight.offset = offsets_of(file, layer);
    return weights;
}

QuantizedLinearWeights read_mx(const SafetensorsFile& file, const PackedLayer& layer) {
    const bool four = layer.config.bits == 4;
    QuantizedLinearWeights weights;
    weights.scheme = four ? "W4A4_MXFP4" : "W8A8_MXFP8";
    weights.weight.format = four ? Format::mxfp4 : Format::mxfp8;
    weights.weight.rows = layer.n;
    weights.weight.columns = layer.k;
    weights.weight.group_size = kMxBlock;
    const std::string name = layer.prefix + (four ? std::string(kPackedMx) : ".weight");
    const Tensor stored = file.tensor(name);
    if (!four && stored.dtype() != DType::f8_e4m3) refuse_packed(file, name, "f8_e4m3", stored.describe());
    weights.weight.data = four ? read_mxfp4(stored, layer.n, layer.k) : stored;
    const std::string scales = layer.prefix + ".weight_scale";
    const Tensor scale = file.tensor(scales);
    const Shape shape = {layer.n, mx_blocks(layer.k)};
    if ((scale.dtype() != DType::u8 && scale.dtype() != DType::f8_e8m0) || scale.shape() != shape)
        refuse_packed(file, scales, "u8 or f8_e8m0 " + to_string(shape), scale.describe());
    weights.weight.scale = as_bytes(scale);
    return weights;
}

// Sizes by the shapes of words and scales; what fits them is checked when a layer is read.
PackedLayer sized_layer(const SafetensorsFile& file, std::string prefix, const PackedConfig& config) {
    PackedLayer layer = {std::move(prefix), config};
    const bool mx = config.packing == Packing::mx;
    const std::string name = layer.prefix + std::string(!mx                ? kWords
                                                        : config.bits == 4 ? kPackedMx
                                                                           : ".weight");
    const Shape& shape = file.info(name).shape;
    if (shape.size() != 2 || element_count(shape) == 0)
        refuse_packed(file, name, "a matrix",
                      std::string(to_string(file.info(name).dtype)) + to_string(shape));
    if (mx) {
        layer.n = shape[0];
        layer.k = shape[1] * (config.bits == 4 ? 2 : 1);
        return layer;
    }
    const std::int64_t per_word = 32 / config.bits;
    const bool awq = config.packing == Packing::awq;
    layer.n = awq ? shape[1] * per_word : shape[1];
    layer.k = awq ? shape[0] : shape[0] * per_word;
    if (layer.n % per_word != 0)
        refuse_packed(file, name, fmt::format("of a multiple of {} rows", per_word), std::to_string(layer.n));
    layer.groups = config.group_size == 0 ? 1 : layer.k / config.group_size;
    if (config.group_size != 0 && layer.k % config.group_size != 0) {
        refuse_packed(file, name,
                      fmt::format("of a multiple of {} columns, which is the group size", config.group_size),
                      std::to_string(layer.k));
    }
    if (!file.contains(layer.prefix + ".scales"))
        refuse_packed(file, layer.prefix + ".scales", "in the file", "nothing");
    return layer;
}

ForeignLayer packed_layer(const SafetensorsFile& file, const std::string& prefix,
                          const PackedConfig& config) {
    const PackedLayer layer = sized_layer(file, prefix, config);
    ForeignLayer out;
    out.prefix = prefix;
    out.format = fmt::format("{} with {} bits", config.method, config.bits);
    out.n = layer.n;
    out.k = layer.k;
    const bool mx = config.packing == Packing::mx, four = config.bits == 4;
    out.quant_type = mx ? (four ? "W4A4_MXFP4" : "W8A8_MXFP8") : (four ? "W4A16" : "W8A16");
    if (mx) {
        out.tensors = {prefix + std::string(four ? kPackedMx : ".weight"), prefix + ".weight_scale"};
        out.read = [layer](const SafetensorsFile& from) { return read_mx(from, layer); };
        return out;
    }
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"})
        if (file.contains(prefix + part)) out.tensors.push_back(prefix + part);
    out.read = [layer](const SafetensorsFile& from) { return read_words(from, layer); };
    return out;
}

std::string before(const std::string& name, std::string_view ending) {
    return name.substr(0, name.size() - ending.size());
}

}  // namespace

ForeignCheckpoint packed_checkpoint(const SafetensorsFile& file) {
    const auto has = [&](std::string_view ending) {
        return std::any_of(file.names().begin(), file.names().end(),
                           [&](const std::string& name) { return name.ends_with(ending); });
    };
    const bool packed = has(kWords) || has(kPackedMx);
    if (!packed && !has(".weight_scale")) return {};
    std::optional<PackedConfig> config;
    if (packed) {
        config = read_config(find_config(file));
    } else {
        // MXFP8 has no tensor of a name of its own, so that the configuration alone tells.
        const fs::path path = file.path().parent_path() / "config.json";
        const fs::path own = file.path().parent_path() / "quantization_config.json";
        if (!path_exists(own) &&
            (!path_exists(path) || !JsonNode::read(path, "quantize").has("quantization_config")))
            return {};
        const JsonNode json = find_config(file);
        if (!contains(word_or(json, "data_type", "int"), "mx_fp")) return {};
        config = read_config(json);
    }
    ForeignCheckpoint checkpoint;
    checkpoint.program = config->method == "gptq" ? "GPTQ" : config->method == "awq" ? "AWQ" : "AutoRound";
    const std::string_view ending = config->packing != Packing::mx ? kWords
                                    : config->bits == 4            ? kPackedMx
                                                                   : std::string_view(".weight_scale");
    for (const std::string& name : file.names())
        if (name.ends_with(ending))
            checkpoint.layers.push_back(packed_layer(file, before(name, ending), *config));
    if (checkpoint.layers.empty()) return {};
    return checkpoint;
}

}  // namespace aerogel
