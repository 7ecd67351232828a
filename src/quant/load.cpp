// A quantized pair: its files; its layers, from any exporter's form to QuantizedLinearWeights; its quantized
// attention.
#include "quant/load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "aerogel/error.h"
#include "core/paths.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "formats/mxfp4.h"
#include "formats/nibbles.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/attention_types.h"
#include "quant/layer_check.h"
#include "quant/pair_switch.h"
#include "quant/quant_type.h"
#include "quant/schemes.h"

namespace aerogel {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kStart = "quant_model_description";

// "stem_12" with another rank instead of 12; "stem" with a rank added.
fs::path with_rank(const fs::path& path, int rank) {
    if (rank < 0) return path;
    std::string stem = path.stem().string();
    std::size_t digits = stem.size();
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(stem[digits - 1])) != 0) --digits;
    const bool has_rank = digits < stem.size() && digits > 0 && stem[digits - 1] == '_';
    stem = (has_rank ? stem.substr(0, digits) : stem + "_") + std::to_string(rank);
    return path.parent_path() / (stem + path.extension().string());
}

// The one description in a folder (of that rank, if one is wanted).
fs::path description_in(const fs::path& folder, int rank) {
    std::vector<std::string> found, others;
    for (const fs::path& path : folder_entries(folder)) {
        const std::string name = path.filename().string();
        if (!name.starts_with(kStart) || path.extension() != ".json") continue;
        const bool wanted = rank < 0 || with_rank(path, rank) == path;
        (wanted ? found : others).push_back(name);
    }
    std::sort(found.begin(), found.end());
    if (found.size() == 1) return folder / found.front();
    const std::string wanted = rank < 0 ? "" : fmt::format(" of rank {}", rank);
    if (found.empty() && !others.empty()) {
        std::sort(others.begin(), others.end());
        throw IoError(fmt::format("[quantize] {} does not exist; there are: {}",
                                  with_rank(folder / others.front(), rank).string(),
                                  fmt::join(others, ", ")));
    }
    if (found.empty()) {
        throw IoError(fmt::format("[quantize] {} has no {}*.json{}", folder.string(), kStart, wanted));
    }
    throw InvalidArgument(fmt::format("[quantize] {} has {} descriptions{}, name one of them: {}",
                                      folder.string(), found.size(), wanted, fmt::join(found, ", ")));
}

// Read by find_attentions().
bool is_attention_key(std::string_view key) {
    return key.ends_with(".quant_type") || key.find(".fa_") != std::string_view::npos ||
           key.find(".fa3_") != std::string_view::npos;
}

// Reads the tensors of one layer by their short names.
class LayerReader {
  public:
    LayerReader(const SafetensorsFile& file, const QuantizedLayer& layer) : file_(file), layer_(layer) {}

    [[noreturn]] void fail(std::string_view tensor, std::string_view what) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}.{}' ({}): {}", file_.path().string(),
                                          layer_.prefix, tensor, layer_.quant_type, what));
    }
    [[noreturn]] void refuse(std::string_view tensor, const std::string& wanted,
                             const std::string& got) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}.{}' ({}) must be {}, got {}",
                                          file_.path().string(), layer_.prefix, tensor, layer_.quant_type,
                                          wanted, got));
    }
    bool has(std::string_view tensor) const { return file_.contains(full_name(tensor)); }
    Tensor required(std::string_view tensor) const {
        if (!has(tensor)) refuse(tensor, "in the file", "nothing");
        return file_.tensor(full_name(tensor));
    }
    // A float tensor of `count` values in any shape, as f32 `shape`; undefined when it is not there.
    Tensor floats(std::string_view tensor, const Shape& shape) const {
        if (!has(tensor)) return {};
        const Tensor stored = required(tensor);
        if (!is_model_dtype(stored.dtype()) || stored.count() != element_count(shape)) {
            refuse(tensor, "f32, bf16 or f16 " + to_string(shape), stored.describe());
        }
        return stored.to(DType::f32).reshaped(shape);
    }

  private:
    std::string full_name(std::string_view tensor) const { return layer_.prefix + "." + std::string(tensor); }

    const SafetensorsFile& file_;
    const QuantizedLayer& layer_;
};

// deq_scale: f32, or i64 whose low 32 bits are those of the f32.
Tensor read_deq_scale(const LayerReader& reader, const Shape& shape) {
    const Tensor stored = reader.required("deq_scale");
    const bool typed = stored.dtype() == DType::f32 || stored.dtype() == DType::i64;
    if (!typed || stored.count() != element_count(shape)) {
        reader.refuse("deq_scale", "f32 or i64 " + to_string(shape), stored.describe());
    }
    if (stored.dtype() == DType::f32) return stored.to(DType::f32).reshaped(shape);
    const Tensor bits = stored.clone();
    Tensor scale(DType::f32, shape);
    std::transform(bits.as<std::int64_t>(), bits.as<std::int64_t>() + bits.count(), scale.as<float>(),
                   [](std::int64_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x)); });
    return scale;
}

// input_offset may be stored as an integer too.
Tensor read_input_offset(const LayerReader& reader, const Shape& shape) {
    const Tensor stored = reader.required("input_offset");
    const bool whole = stored.dtype() == DType::i8 || stored.dtype() == DType::i32;
    if (!whole || stored.count() != element_count(shape)) return reader.floats("input_offset", shape);
    return stored.to(DType::f32).reshaped(shape);
}

// A row of [steps, n] as a tensor of its own.
Tensor row_of(const Tensor& tensor, std::int64_t row) {
    const std::int64_t n = tensor.dim(1);
    auto* data =
        static_cast<std::byte*>(tensor.data()) + static_cast<std::size_t>(row * n) * size_of(tensor.dtype());
    return Tensor(tensor.dtype(), {n}, data, std::make_shared<Tensor>(tensor)).clone();
}

std::vector<StaticScales> read_static(const LayerReader& reader, const SchemeRow& scheme, std::int64_t n) {
    const std::int64_t steps = scheme.per_step ? reader.required("input_scale").count() : 1;
    if (steps < 1) reader.refuse("input_scale", "at least one step", "none");
    const Shape per_step = {steps}, per_channel = {steps, n};
    reader.required("input_scale");
    const Tensor input_scale = reader.floats("input_scale", per_step);
    const Tensor input_offset = read_input_offset(reader, per_step);
    const Tensor quant_bias = reader.required("quant_bias");
    if (quant_bias.dtype() != DType::i32 || quant_bias.count() != steps * n) {
        reader.refuse("quant_bias", "i32 " + to_string(per_channel), quant_bias.describe());
    }
    const Tensor deq_scale = read_deq_scale(reader, per_channel);
    std::vector<StaticScales> result;
    for (std::int64_t step = 0; step < steps; ++step) {
        result.push_back({input_scale.as<float>()[step], input_offset.as<float>()[step],
                          row_of(quant_bias.reshaped(per_channel), step), row_of(deq_scale, step)});
    }
    return result;
}

// Static files of the newer exporter hold no weight_scale: it is deq_scale / input_scale.
Tensor recovered_scale(const StaticScales& scales) {
    Tensor scale = scales.deq_scale.clone().reshaped({scales.deq_scale.count(), 1});
    for (std::int64_t i = 0; i < scale.count(); ++i) scale.as<float>()[i] /= scales.input_scale;
    return scale;
}

// Sizes of 0 would let a file of a hundred bytes name any number of rows.
void check_sizes(const LayerReader& reader, const Tensor& stored) {
    if (stored.shape().size() == 2 && stored.count() == 0) {
        reader.refuse("weight", "a matrix with at least one row and one column", stored.describe());
    }
}

// Four-bit weights lie in several layouts; those of the formats' readers count.
void read_packed(const LayerReader& reader, std::int64_t in_features, QuantizedTensor& weight) {
    const Tensor stored = reader.required("weight");
    if (stored.shape().size() != 2) reader.refuse("weight", "a matrix", stored.describe());
    check_sizes(reader, stored);
    const Tensor scale = reader.required("weight_scale");
    try {
        if (weight.format == Format::int4) {
            weight.rows = scale.count() == 1 || scale.shape().empty() ? stored.dim(0) : scale.dim(0);
            weight.columns = in_features != 0 ? in_features : int4_columns(stored, weight.rows);
            weight.data = read_int4(stored, weight.rows, weight.columns);
        } else {
            weight.columns = in_features != 0 ? in_features : mxfp4_columns(stored);
            weight.rows = stored.dim(0);
            weight.data = read_mxfp4(stored, weight.rows, weight.columns);
        }
    } catch (const InvalidArgument& error) {
        reader.fail("weight", error.what());
    }
}

void read_weight(const LayerReader& reader, std::int64_t in_features, QuantizedTensor& weight) {
    const bool mxfp4 = weight.format == Format::mxfp4 || weight.format == Format::mxfp4_dual;
    if (mxfp4 || weight.format == Format::int4) return read_packed(reader, in_features, weight);
    const DType dtype = format_row(weight.format).storage;
    weight.data = reader.required("weight");
    if (weight.data.dtype() != dtype || weight.data.shape().size() != 2) {
        reader.refuse("weight", fmt::format("{}[out_features,in_features]", to_string(dtype)),
                      weight.data.describe());
    }
    check_sizes(reader, weight.data);
    weight.rows = weight.data.dim(0);
    weight.columns = weight.data.dim(1);
}

// [rows, k / block, 1]: the block is what the shape says, 512 where that fits (its last one may be shorter).
void read_dual_scales(const LayerReader& reader, QuantizedTensor& weight) {
    constexpr const char* kName = "weight_dual_scale";
    const Tensor stored = reader.required(kName);
    const std::int64_t blocks = stored.count() / weight.rows, k = weight.columns;
    weight.dual_block = blocks * weight.rows == stored.count() ? mx_dual_block(k, blocks) : 0;
    if (weight.dual_block == 0) {
        reader.refuse(
            kName, fmt::format("[{},k/block,1] with a block of 32, 64 ... of the {} columns", weight.rows, k),
            stored.describe());
    }
    weight.dual_scale = reader.floats(kName, {weight.rows, blocks});
}

// E8M0 scales as u8 or f8_e8m0, of one block of 32 columns each, in any shape of that many.
void read_mx_scales(const LayerReader& reader, QuantizedTensor& weight) {
    const Tensor stored = reader.required("weight_scale");
    const Shape shape = {weight.rows, mx_blocks(weight.columns)};
    const bool bytes = stored.dtype() == DType::u8 || stored.dtype() == DType::f8_e8m0;
    if (!bytes || stored.count() != element_count(shape)) {
        reader.refuse("weight_scale", "u8 or f8_e8m0 " + to_string(shape), stored.describe());
    }
    weight.group_size = kMxBlock;
    weight.scale = as_bytes(stored).reshaped(shape);
    if (weight.format == Format::mxfp4_dual) read_dual_scales(reader, weight);
}

// Scales per row or group; a single one counts for every row.
Tensor float_scales(const LayerReader& reader, QuantizedTensor& weight) {
    const Tensor stored = reader.required("weight_scale");
    if (stored.count() == 1 && weight.rows > 1) {
        const float all = reader.floats("weight_scale", {1}).as<float>()[0];
        Tensor scale(DType::f32, {weight.rows, 1});
        std::fill(scale.as<float>(), scale.as<float>() + weight.rows, all);
        return scale;
    }
    const std::int64_t groups = weight.rows == 0 ? 0 : stored.count() / weight.rows;
    if (groups < 1 || groups * weight.rows != stored.count() || weight.columns % groups != 0) {
        reader.refuse("weight_scale", fmt::format("[{},1] or [{},groups]", weight.rows, weight.rows),
                      stored.describe());
    }
    weight.group_size = groups == 1 ? 0 : weight.columns / groups;
    return reader.floats("weight_scale", {weight.rows, groups});
}

void read_scales(const LayerReader& reader, const SchemeRow& scheme, QuantizedLinearWeights& out) {
    QuantizedTensor& weight = out.weight;
    if (is_mx(weight.format)) return read_mx_scales(reader, weight);
    if (!reader.has("weight_scale") && scheme.activation == Activation::per_tensor && !scheme.per_step) {
        weight.scale = recovered_scale(out.static_scales.front());
        return;
    }
    weight.scale = float_scales(reader, weight);
    const bool one = reader.has("weight_offset") && reader.required("weight_offset").count() == 1;
    const Tensor offset = reader.floats("weight_offset", one ? Shape{1} : weight.scale.shape());
    if (!offset.defined()) return;
    const auto* values = offset.as<float>();
    if (std::all_of(values, values + offset.count(), [](float x) { return x == 0.0F; })) return;
    if (scheme.activation != Activation::none || format_row(weight.format).integers == nullptr) {
        reader.refuse("weight_offset", "zeros (weights are symmetric in this scheme)", "other values");
    }
    weight.offset = reader.floats("weight_offset", weight.scale.shape());
}

// Signs as any number type, [k / block, block].
Tensor read_rotation(const LayerReader& reader) {
    if (!reader.has("rotation")) return {};
    const Tensor stored = reader.required("rotation");
    if (stored.dtype() != DType::i8 && !is_model_dtype(stored.dtype())) {
        reader.refuse("rotation", "i8 or float [k/block,block]", stored.describe());
    }
    return stored.to(DType::f32);
}

// `outer` reads under the layer's own name, `reader` under that of its weight.
void read_branches(const LayerReader& reader, const LayerReader& outer, const QuantType& type,
                   QuantizedLinearWeights& out) {
    if (type.rotated) reader.required("rotation");
    out.rotation = read_rotation(reader);
    if (!type.low_rank && !outer.has("svd_lowrank_l1")) return;
    out.low_rank_l1 = outer.required("svd_lowrank_l1");
    out.low_rank_l2 = outer.required("svd_lowrank_l2");
}

constexpr std::string_view kType = ".quant_type";

// "blocks.0.attn1" of "blocks.0.attn1.fa_q.scale", or an empty string.
std::string module_of_scale(const std::string& key) {
    for (const char* part : {".fa_", ".fa3_"}) {
        if (const std::size_t at = key.find(part); at != std::string::npos) return key.substr(0, at);
    }
    return {};
}

class AttentionReader {
  public:
    AttentionReader(const SafetensorsFile& file, const QuantizedAttention& attention)
        : file_(file), attention_(attention) {}

    [[noreturn]] void refuse(const std::string& tensor, const std::string& wanted,
                             const std::string& got) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}.{}' ({}) must be {}, got {}",
                                          file_.path().string(), attention_.name, tensor,
                                          attention_.quant_type, wanted, got));
    }
    Tensor find(const std::string& tensor) const {
        const std::string name = attention_.name + "." + tensor;
        return file_.contains(name) ? file_.tensor(name) : Tensor();
    }
    // A square matrix that is orthogonal, or so up to a factor.
    Tensor rotation(const std::string& tensor, const AttentionType& type, std::int64_t head_dim) const {
        const Tensor stored = find(tensor);
        if (!stored.defined()) {
            if (type.needs_rotation) refuse(tensor, "in the file", "nothing");
            return {};
        }
        const std::int64_t d = head_dim != 0 ? head_dim : (stored.shape().empty() ? 0 : stored.dim(0));
        if (!is_model_dtype(stored.dtype()) || d < 1 || stored.shape() != Shape{d, d}) {
            refuse(tensor,
                   fmt::format("f32, bf16 or f16 {}", head_dim == 0 ? "[d,d]" : to_string(Shape{d, d})),
                   stored.describe());
        }
        return stored.dtype() == DType::f16 ? stored.to(DType::f32) : stored;
    }
    // One value per head, under the name of either exporter; undefined when there is none.
    Tensor per_head(char part, const std::string& kind, std::int64_t heads, std::int64_t kv_heads) const {
        std::string name;
        Tensor stored;
        for (const char* prefix : {"fa_", "fa3_"}) {
            name = std::string(prefix) + part + "." + kind;
            if ((stored = find(name)).defined()) break;
        }
        if (!stored.defined()) {
            if (kind == "scale") refuse(std::string("fa_") + part + "." + kind, "in the file", "nothing");
            return {};
        }
        const bool typed = is_model_dtype(stored.dtype()) || stored.dtype() == DType::i8;
        const std::int64_t known = part == 'q' ? heads : kv_heads, count = stored.count();
        const bool fits =
            count >= 1 && (known != 0 ? count == known : heads % std::max<std::int64_t>(count, 1) == 0);
        if (!typed || !fits) {
            const std::int64_t shown = known == 0 ? heads : known;
            refuse(name, shown == 0 ? "[heads,1]" : fmt::format("[{},1], one per head of this model", shown),
                   stored.describe());
        }
        return stored.to(DType::f32).reshaped({stored.count()});
    }

  private:
    const SafetensorsFile& file_;
    const QuantizedAttention& attention_;
};

}  // namespace

std::vector<std::string> tensors_of(const QuantizedLayer& layer) {
    std::vector<std::string> names = {layer.prefix + ".weight", layer.prefix + ".bias"};
    for (const std::string_view tensor : layer_tensors()) {
        names.push_back(layer.prefix + "." + std::string(tensor));
    }
    for (const char* tensor : {".div.mul_scale", ".svd_lowrank_l1", ".svd_lowrank_l2"}) {
        names.push_back(layer.name + tensor);
    }
    return names;
}

QuantizedPair::QuantizedPair(fs::path path, QuantDescription description, SafetensorsFile weights)
    : path_(std::move(path)), description_(std::move(description)), weights_(std::move(weights)) {
    find_layers();
    find_attentions();
}

QuantizedPair QuantizedPair::open(const fs::path& path, int rank) {
    const fs::path file = is_folder(path) ? description_in(path, rank) : with_rank(path, rank);
    // An export may exchange the pair between the two openings: what was read first is then old.
    constexpr int kMostTries = 10;
    for (int attempt = 1;; ++attempt) {
        QuantDescription description = read_description_in_force(file);
        SafetensorsFile weights = SafetensorsFile::open(weight_path_of(file, description));
        const QuantDescription again = read_description_in_force(file);
        const bool same =
            again.model_quant_type == description.model_quant_type && again.entries == description.entries;
        if (same) return {file, std::move(description), std::move(weights)};
        if (attempt == kMostTries) {
            throw IoError(fmt::format("[quantize] {}: it is written anew all the time", file.string()));
        }
    }
}

void QuantizedPair::find_layers() {
    constexpr std::string_view kWeight = ".weight", kSmoothed = ".linear";
    std::map<std::string, std::string> types(description_.entries.begin(), description_.entries.end());
    const auto is_float = [&](const std::string& key) {
        const auto found = types.find(key);
        return found != types.end() && found->second == "FLOAT";
    };
    for (const auto& [key, type] : description_.entries) {
        if (type == "FLOAT") continue;
        if (is_attention_key(key)) {
            attention_keys_.push_back(key);
            continue;
        }
        std::string prefix = key;
        if (key.ends_with(kWeight)) {
            prefix.resize(key.size() - kWeight.size());
        } else if (!weights_.contains(key + std::string(kWeight))) {
            continue;  // a scale, an offset, a bias: read with its weight
        }
        if (!is_quant_type(type)) {
            throw InvalidArgument(
                fmt::format("[quantize] {}: '{}' has the unknown type '{}'; there are: FLOAT, {}",
                            path_.string(), key, type, scheme_names()));
        }
        std::string name = prefix;
        if (prefix.ends_with(kSmoothed)) {
            const std::string outer = prefix.substr(0, prefix.size() - kSmoothed.size());
            if (weights_.contains(outer + ".div.mul_scale")) name = outer;
        }
        // One FLOAT among the names a module may be listed under keeps it float.
        if (is_float(name) || is_float(name + ".weight") || is_float(name + ".linear.weight")) continue;
        layers_.push_back({std::move(name), std::move(prefix), upper_case(type)});
    }
}

std::size_t QuantizedPair::stored_bytes(const QuantizedLayer& layer) const {
    std::size_t bytes = 0;
    for (const std::string& name : aerogel::tensors_of(layer)) {
        if (!weights_.contains(name)) continue;
        const TensorInfo& info = weights_.info(name);
        bytes += static_cast<std::size_t>(element_count(info.shape)) * size_of(info.dtype);
    }
    return bytes;
}

QuantizedLinearWeights QuantizedPair::read(const QuantizedLayer& layer, std::int64_t in_features) const {
    const SchemeRow& scheme = stored_scheme_row("quantize", layer.quant_type);
    const LayerReader reader(weights_, layer);
    const QuantizedLayer outer = {layer.name, layer.name, layer.quant_type};
    const LayerReader smoothing(weights_, outer);  // and the low-rank branch
    const bool smoothed = layer.prefix != layer.name;
    if (smoothed && in_features == 0) in_features = smoothing.required("div.mul_scale").count();
    QuantizedLinearWeights out;
    out.scheme = std::string(scheme.name);
    out.weight.format = scheme.weight;
    read_weight(reader, in_features, out.weight);
    out.bias = reader.floats("bias", {out.weight.rows});
    if (smoothed) out.mul_scale = smoothing.floats("div.mul_scale", {out.weight.columns});
    if (scheme.activation == Activation::per_tensor) {
        out.static_scales = read_static(reader, scheme, out.weight.rows);
    }
    read_scales(reader, scheme, out);
    read_branches(reader, smoothing, split_quant_type(layer.quant_type), out);
    out.stored_bytes = stored_bytes(layer);
    weights_.check_intact();
    try {
        check_layer(out);
    } catch (const InvalidArgument& error) {
        throw InvalidArgument(
            fmt::format("[quantize] {}: layer {}: {}", weights_.path().string(), layer.name, error.what()));
    }
    return out;
}

void QuantizedPair::find_attentions() {
    std::unordered_map<std::string, std::size_t> places;
    const auto add = [&](const std::string& name, const std::string& type, bool wins) {
        const auto [place, is_new] = places.emplace(name, attentions_.size());
        if (is_new) {
            attentions_.push_back({name, type});
        } else if (wins) {
            attentions_[place->second].quant_type = type;
        }
    };
    for (const auto& [key, type] : description_.entries) {
        if (key.ends_with(kType)) {
            if (type != "FLOAT") add(key.substr(0, key.size() - kType.size()), upper_case(type), true);
        } else if (const std::string module = module_of_scale(key); !module.empty() && type != "FLOAT") {
            add(module, "FAQUANT", false);
        }
    }
}

std::vector<std::string> QuantizedPair::tensors_of(const QuantizedAttention& attention) const {
    std::vector<std::string> names;
    for (const char* tensor : {".q_rot", ".k_rot"}) names.push_back(attention.name + tensor);
    for (const char* prefix : {".fa_", ".fa3_"}) {
        for (const char part : {'q', 'k', 'v'}) {
            for (const char* kind : {".scale", ".offset"})
                names.push_back(attention.name + prefix + part + kind);
        }
    }
    std::erase_if(names, [&](const std::string& name) { return !weights_.contains(name); });
    return names;
}

AttentionQuantization QuantizedPair::read(const QuantizedAttention& attention, std::int64_t heads,
                                          std::int64_t head_dim, std::int64_t kv_heads) const {
    const auto type = find_attention_type(attention.quant_type);
    if (!type) throw Unsupported(fmt::format("{} attention is not there yet", attention.quant_type));
    const AttentionReader reader(weights_, attention);
    AttentionQuantization result;
    result.quant_type = attention.quant_type;
    result.format = type->format;
    if (type->calibrated) {
        const auto values = [&](char part, const char* kind) {
            return reader.per_head(part, kind, heads, kv_heads);
        };
        result.scales = AttentionScales{values('q', "scale"),  values('k', "scale"),  values('v', "scale"),
                                        values('q', "offset"), values('k', "offset"), values('v', "offset")};
        weights_.check_intact();
        return result;
    }
    result.q_rotation = reader.rotation("q_rot", *type, head_dim);
    result.k_rotation = reader.rotation("k_rot", *type, head_dim);
    if (result.q_rotation.defined() != result.k_rotation.defined()) {
        reader.refuse(result.q_rotation.defined() ? "k_rot" : "q_rot", "in the file beside the other",
                      "nothing");
    }
    weights_.check_intact();
    return result;
}

}  // namespace aerogel
