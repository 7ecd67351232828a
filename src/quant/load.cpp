// A quantized pair: its files; its layers, from any exporter's form to QuantizedLinearWeights; its quantized
// attention.
#include "quant/load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cctype>
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
#include "quant/attention.h"
#include "quant/layer_arrays.h"
#include "quant/pair_switch.h"
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

// Reads the tensors of one layer, as the table of arrays has them.
class LayerReader {
  public:
    LayerReader(const SafetensorsFile& file, const QuantizedLayer& layer) : file_(file), layer_(layer) {}

    [[noreturn]] void fail(const LayerArray& array, std::string_view what) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}' ({}): {}", file_.path().string(),
                                          full_name(array), layer_.quant_type, what));
    }
    [[noreturn]] void refuse(const LayerArray& array, const std::string& wanted,
                             const std::string& got) const {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}' ({}) must be {}, got {}",
                                          file_.path().string(), full_name(array), layer_.quant_type, wanted,
                                          got));
    }
    bool has(const LayerArray& array) const { return file_.contains(full_name(array)); }
    Tensor required(const LayerArray& array) const {
        if (!has(array)) refuse(array, "in the file", "nothing");
        return file_.tensor(full_name(array));
    }
    // A float tensor of `count` values in any shape, as f32 `shape`.
    Tensor floats(const LayerArray& array, const Shape& shape) const {
        const Tensor stored = required(array);
        if (!is_model_dtype(stored.dtype()) || stored.count() != element_count(shape)) {
            refuse(array, "f32, bf16 or f16 " + to_string(shape), stored.describe());
        }
        return stored.to(DType::f32).reshaped(shape);
    }

  private:
    std::string full_name(const LayerArray& array) const {
        return stored_name(array, layer_.name, layer_.prefix);
    }

    const SafetensorsFile& file_;
    const QuantizedLayer& layer_;
};

// f32, or i64 whose low 32 bits are those of the f32.
Tensor read_bits(const LayerReader& reader, const LayerArray& array, const Shape& shape) {
    const Tensor stored = reader.required(array);
    const bool typed = stored.dtype() == DType::f32 || stored.dtype() == DType::i64;
    if (!typed || stored.count() != element_count(shape)) {
        reader.refuse(array, "f32 or i64 " + to_string(shape), stored.describe());
    }
    if (stored.dtype() == DType::f32) return stored.to(DType::f32).reshaped(shape);
    const Tensor bits = stored.clone();
    Tensor values(DType::f32, shape);
    std::transform(bits.as<std::int64_t>(), bits.as<std::int64_t>() + bits.count(),
                   values.mutable_as<float>(),
                   [](std::int64_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x)); });
    return values;
}

Tensor read_whole(const LayerReader& reader, const LayerArray& array, const Shape& shape) {
    const Tensor stored = reader.required(array);
    const bool whole = stored.dtype() == DType::i8 || stored.dtype() == DType::i32;
    if (!whole || stored.count() != element_count(shape)) return reader.floats(array, shape);
    return stored.to(DType::f32).reshaped(shape);
}

Tensor read_integers(const LayerReader& reader, const LayerArray& array, const Shape& shape) {
    const Tensor stored = reader.required(array);
    if (stored.dtype() != DType::i32 || stored.count() != element_count(shape)) {
        reader.refuse(array, "i32 " + to_string(shape), stored.describe());
    }
    return stored.clone().reshaped(shape);
}

// Any number type, [k / block, block].
Tensor read_signs(const LayerReader& reader, const LayerArray& array) {
    const Tensor stored = reader.required(array);
    if (stored.dtype() != DType::i8 && !is_model_dtype(stored.dtype())) {
        reader.refuse(array, "i8 or float [k/block,block]", stored.describe());
    }
    return stored.to(DType::f32);
}

// Static files of the newer exporter hold no weight_scale: it is deq_scale / input_scale.
Tensor recovered_scale(const QuantizedLinearWeights& layer) {
    Tensor scale = layer.deq_scale.clone().reshaped({layer.deq_scale.count(), 1});
    for (std::int64_t i = 0; i < scale.count(); ++i)
        scale.mutable_as<float>()[i] /= layer.input_scale.as<float>()[0];
    return scale;
}

// Sizes of 0 would let a file of a hundred bytes name any number of rows.
void check_sizes(const LayerReader& reader, const LayerArray& array, const Tensor& stored) {
    if (stored.shape().size() == 2 && stored.count() == 0) {
        reader.refuse(array, "a matrix with at least one row and one column", stored.describe());
    }
}

// Four-bit weights lie in several layouts; those of the formats' readers count.
void read_packed(const LayerReader& reader, const LayerArray& array, std::int64_t in_features,
                 QuantizedTensor& weight) {
    const Tensor stored = reader.required(array);
    if (stored.shape().size() != 2) reader.refuse(array, "a matrix", stored.describe());
    check_sizes(reader, array, stored);
    const Tensor scale = reader.required(layer_array("weight_scale"));
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
        reader.fail(array, error.what());
    }
}

void read_weight(const LayerReader& reader, const LayerArray& array, std::int64_t in_features,
                 QuantizedTensor& weight) {
    const bool mxfp4 = weight.format == Format::mxfp4 || weight.format == Format::mxfp4_dual;
    if (mxfp4 || weight.format == Format::int4) return read_packed(reader, array, in_features, weight);
    const DType dtype = format_row(weight.format).storage;
    weight.data = reader.required(array);
    if (weight.data.dtype() != dtype || weight.data.shape().size() != 2) {
        reader.refuse(array, fmt::format("{}[out_features,in_features]", to_string(dtype)),
                      weight.data.describe());
    }
    check_sizes(reader, array, weight.data);
    weight.rows = weight.data.dim(0);
    weight.columns = weight.data.dim(1);
}

// [rows, k / block, 1]: the block is what the shape says, 512 where that fits (its last one may be shorter).
void read_dual_scale(const LayerReader& reader, const LayerArray& array, QuantizedTensor& weight) {
    const Tensor stored = reader.required(array);
    const std::int64_t blocks = stored.count() / weight.rows, k = weight.columns;
    weight.dual_block = blocks * weight.rows == stored.count() ? mx_dual_block(k, blocks) : 0;
    if (weight.dual_block == 0) {
        reader.refuse(
            array, fmt::format("[{},k/block,1] with a block of 32, 64 ... of the {} columns", weight.rows, k),
            stored.describe());
    }
    weight.dual_scale = reader.floats(array, {weight.rows, blocks});
}

// E8M0 scales as u8 or f8_e8m0, of one block of 32 columns each, in any shape of that many.
void read_mx_scale(const LayerReader& reader, const LayerArray& array, QuantizedTensor& weight) {
    const Tensor stored = reader.required(array);
    const Shape shape = {weight.rows, mx_blocks(weight.columns)};
    const bool bytes = stored.dtype() == DType::u8 || stored.dtype() == DType::f8_e8m0;
    if (!bytes || stored.count() != element_count(shape)) {
        reader.refuse(array, "u8 or f8_e8m0 " + to_string(shape), stored.describe());
    }
    weight.group_size = kMxBlock;
    weight.scale = as_bytes(stored).reshaped(shape);
}

// Scales per row or group; a single one counts for every row.
void read_scale(const LayerReader& reader, const LayerArray& array, QuantizedTensor& weight) {
    if (is_mx(weight.format)) return read_mx_scale(reader, array, weight);
    const Tensor stored = reader.required(array);
    if (stored.count() == 1 && weight.rows > 1) {
        const float all = reader.floats(array, {1}).as<float>()[0];
        weight.scale = Tensor(DType::f32, {weight.rows, 1});
        std::fill_n(weight.scale.mutable_as<float>(), weight.rows, all);
        return;
    }
    const std::int64_t groups = weight.rows == 0 ? 0 : stored.count() / weight.rows;
    if (groups < 1 || groups * weight.rows != stored.count() || weight.columns % groups != 0) {
        reader.refuse(array, fmt::format("[{},1] or [{},groups]", weight.rows, weight.rows),
                      stored.describe());
    }
    weight.group_size = groups == 1 ? 0 : weight.columns / groups;
    weight.scale = reader.floats(array, {weight.rows, groups});
}

// Zeros are no offset.
void read_offset(const LayerReader& reader, const LayerArray& array, const SchemeRow& scheme,
                 QuantizedTensor& weight) {
    if (is_mx(weight.format) || !weight.scale.defined() || !reader.has(array)) return;
    const bool one = reader.required(array).count() == 1;
    const Tensor offset = reader.floats(array, one ? Shape{1} : weight.scale.shape());
    const auto* values = offset.as<float>();
    if (std::all_of(values, values + offset.count(), [](float x) { return x == 0.0F; })) return;
    if (scheme.activation != Activation::none || format_row(weight.format).integers == nullptr) {
        reader.refuse(array, "zeros (weights are symmetric in this scheme)", "other values");
    }
    weight.offset = reader.floats(array, weight.scale.shape());
}

// What is known before the arrays are read.
struct LayerFacts {
    const SchemeRow& scheme;
    LayerParts parts;  // that the files must hold
    std::int64_t in_features;
    std::int64_t steps;
};

// Static scales of one step may stand for those of the weight.
bool is_left_out(const LayerReader& reader, const LayerArray& array, const SchemeRow& scheme) {
    return array.form == ArrayForm::scale && scheme.activation == Activation::per_tensor &&
           !scheme.per_step && !reader.has(array);
}

void read_array(const LayerReader& reader, const LayerArray& array, const LayerFacts& facts,
                QuantizedLinearWeights& out) {
    ArraySizes sizes = sizes_of(out);
    sizes.steps = facts.steps;
    const auto shape = [&] { return array.whole_shape(sizes); };
    switch (array.form) {
        case ArrayForm::weight:
            return read_weight(reader, array, facts.in_features, out.weight);
        case ArrayForm::scale:
            return read_scale(reader, array, out.weight);
        case ArrayForm::offset:
            return read_offset(reader, array, facts.scheme, out.weight);
        case ArrayForm::dual_scale:
            return read_dual_scale(reader, array, out.weight);
        case ArrayForm::floats:
            array.in(out) = reader.floats(array, shape());
            return;
        case ArrayForm::whole:
            array.in(out) = read_whole(reader, array, shape());
            return;
        case ArrayForm::integers:
            array.in(out) = read_integers(reader, array, shape());
            return;
        case ArrayForm::bits:
            array.in(out) = read_bits(reader, array, shape());
            return;
        case ArrayForm::signs:
            array.in(out) = read_signs(reader, array);
            return;
        case ArrayForm::factors:
            array.in(out) = reader.required(array);
            return;
        case ArrayForm::ignored:
            return;
    }
}

// Of the parts, all that the type names must be there, and the low-rank factors come together.
LayerFacts facts_of(const LayerReader& reader, const QuantizedLayer& layer, std::int64_t in_features) {
    const SchemeRow& scheme = stored_scheme_row("quantize", layer.quant_type);
    const QuantType type = split_quant_type(layer.quant_type);
    LayerFacts facts{scheme, {}, in_features, 1};
    facts.parts.rotation = type.rotation.has_value();
    facts.parts.low_rank = type.low_rank || reader.has(layer_array("svd_lowrank_l1"));
    facts.parts.smoothing = layer.prefix != layer.name;
    if (facts.parts.smoothing && in_features == 0) {
        facts.in_features = reader.required(layer_array("mul_scale")).count();
    }
    if (!scheme.per_step) return facts;
    const LayerArray& by_step = layer_array("input_scale");
    facts.steps = reader.required(by_step).count();
    if (facts.steps < 1) reader.refuse(by_step, "at least one step", "none");
    return facts;
}

bool is_there(const LayerReader& reader, const LayerArray& array, const LayerFacts& facts) {
    if (array.part == nullptr) return array.fits(facts.scheme) || array.form == ArrayForm::offset;
    return facts.parts.*array.part || (array.unnamed && reader.has(array));
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
    AttentionReader(const SafetensorsFile& file, const StoredAttention& attention)
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
    const StoredAttention& attention_;
};

}  // namespace

std::vector<std::string> tensors_of(const QuantizedLayer& layer) {
    std::vector<std::string> names = layer.tensors;
    if (layer.foreign >= 0) {
        names.push_back(layer.prefix + ".bias");
        return names;
    }
    for (const LayerArray& array : layer_arrays()) {
        names.push_back(stored_name(array, layer.name, layer.prefix));
    }
    return names;
}

QuantizedPair::QuantizedPair(fs::path path, QuantDescription description, SafetensorsFile weights)
    : path_(std::move(path)), description_(std::move(description)), weights_(std::move(weights)) {
    find_layers();
    find_attentions();
}

QuantizedPair QuantizedPair::open(const fs::path& path, int rank) {
    if (!is_folder(path) && is_checkpoint(path)) return open_checkpoint(path);
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
        if (type == "FLOAT" || is_attention_key(key)) continue;
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
        QuantizedLayer layer = {std::move(name), std::move(prefix), type};
        for (std::string& tensor : aerogel::tensors_of(layer)) {
            if (types.contains(tensor) && !weights_.contains(tensor)) layer.missing.push_back(tensor);
        }
        layers_.push_back(std::move(layer));
    }
}

std::size_t QuantizedPair::stored_bytes(const QuantizedLayer& layer) const {
    std::size_t bytes = 0;
    for (const std::string& name : aerogel::tensors_of(layer)) {
        if (weights_.contains(name)) bytes += weights_.info(name).bytes();
    }
    return bytes;
}

QuantizedLinearWeights QuantizedPair::read(const QuantizedLayer& layer, std::int64_t in_features) const {
    if (layer.foreign >= 0) return read_layer_of_checkpoint(layer);
    if (!layer.missing.empty()) {
        throw InvalidArgument(fmt::format("[quantize] {}: '{}' ({}) must be in the file, got nothing",
                                          weights_.path().string(), layer.missing.front(), layer.quant_type));
    }
    const LayerReader reader(weights_, layer);
    const LayerFacts facts = facts_of(reader, layer, in_features);
    QuantizedLinearWeights out;
    out.scheme = std::string(facts.scheme.name);
    out.rotation_kind = split_quant_type(layer.quant_type).rotation.value_or(RotationKind::hadamard);
    out.weight.format = facts.scheme.weight;
    bool recovers = false;
    for (const LayerArray& array : layer_arrays()) {
        if (!is_there(reader, array, facts)) continue;
        if (is_left_out(reader, array, facts.scheme)) {
            recovers = true;
        } else {
            read_array(reader, array, facts, out);
        }
    }
    if (recovers) out.weight.scale = recovered_scale(out);
    out.stored_bytes = stored_bytes(layer);
    watch_file(out, weights_, aerogel::tensors_of(layer));
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
        const bool is_float = type == "FLOAT";
        if (key.ends_with(kType)) {
            if (!is_float) add(key.substr(0, key.size() - kType.size()), type, true);
        } else if (const std::string module = module_of_scale(key); !module.empty() && !is_float) {
            add(module, "FAQUANT", false);
        }
    }
}

std::vector<std::string> QuantizedPair::tensors_of(const StoredAttention& attention) const {
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

AttentionQuantization QuantizedPair::read(const StoredAttention& attention, std::int64_t heads,
                                          std::int64_t head_dim, std::int64_t kv_heads) const {
    const auto type = find_attention_type(attention.quant_type);
    if (!type) throw Unsupported(fmt::format("{} attention is not supported", attention.quant_type));
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
