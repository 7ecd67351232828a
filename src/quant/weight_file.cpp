// Names of ours to rows of stored tensors.
#include "quant/weight_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "aerogel/error.h"
#include "core/gguf.h"
#include "core/paths.h"
#include "core/text.h"
#include "formats/gguf_blocks.h"
#include "quant/foreign/foreign.h"
#include "quant/restore.h"

namespace aerogel {

// Rows of a stored tensor, along its first axis.
struct StoredRows {
    std::string stored;
    std::int64_t first;
    std::int64_t count;
};

struct WeightItem {
    TensorInfo info;
    std::vector<StoredRows> parts;
};

namespace {

// What all single files of ComfyUI and stable-diffusion.cpp begin their names with.
constexpr std::string_view kPrefix = "model.diffusion_model.";

struct StoredInfo {
    DType dtype;
    Shape shape;
    bool has_rows;  ///< whole blocks belong to one place along the first axis
};

Shape without_leading_ones(const Shape& shape) {
    return {std::find_if(shape.begin(), shape.end(), [](std::int64_t size) { return size != 1; }),
            shape.end()};
}

// A name among those of a model's own code; no row: it is that of diffusers.
struct Renamed {
    Renamed(std::string_view name, const OriginalNames& names) {
        for (const OriginalName& candidate : names.rows) {
            const auto found = match_name(candidate.original, name);
            if (!found) continue;
            row = &candidate;
            match = *found;
            return;
        }
    }

    /// Elements of the first axis that it divides among several tensors; 0: it is one.
    std::int64_t shares() const {
        std::int64_t sum = 0;
        for (std::size_t i = 0; row != nullptr && row->parts() > 1 && i < row->parts(); ++i)
            sum += row->shares[i];
        return sum;
    }

    const OriginalName* row = nullptr;
    NameMatch match;
};

// The tensors of ours that a stored one holds.
// `shown`: its name, but for that of a foreign layer's weight.
std::vector<WeightItem> items_of(const std::string& stored, const std::string& shown, const StoredInfo& info,
                                 const OriginalNames& names) {
    const std::string name = shown.starts_with(kPrefix) ? shown.substr(kPrefix.size()) : shown;
    const std::int64_t rows = info.shape.empty() ? 1 : info.shape[0];
    const Renamed renamed(name, names);
    const OriginalName* const row = renamed.row;
    const std::int64_t shares = renamed.shares();
    if (shares == 0 || rows % shares != 0 || !info.has_rows) {
        const bool swapped = row != nullptr && row->swap_halves;
        std::vector<StoredRows> parts = {{stored, 0, rows}};
        if (swapped && !info.has_rows)
            throw Unsupported("[read] tensor " + in_quotes(stored) +
                              ": halves of a vector change places, so it cannot consist of blocks");
        if (swapped && rows % 2 == 0) parts = {{stored, rows / 2, rows / 2}, {stored, 0, rows / 2}};
        const bool one = row != nullptr && shares == 0;
        return {
            {{one ? name_of(row->names[0], renamed.match) : name, info.dtype, info.shape}, std::move(parts)}};
    }
    std::vector<WeightItem> items;
    std::int64_t first = 0;
    for (std::size_t i = 0; i < row->parts(); ++i) {
        Shape shape = info.shape;
        shape[0] = rows / shares * row->shares[i];
        items.push_back(
            {{name_of(row->names[i], renamed.match), info.dtype, shape}, {{stored, first, shape[0]}}});
        first += shape[0];
    }
    return items;
}

}  // namespace

bool has_names_of(const OriginalNames& code, const std::vector<std::string>& stored) {
    return !code.marker.empty() && std::any_of(stored.begin(), stored.end(), [&](const std::string& name) {
        return name.find(code.marker) != std::string::npos;
    });
}

struct WeightFile::State {
    std::optional<SafetensorsFile> safetensors;
    std::optional<GgufFile> gguf;
    ForeignCheckpoint foreign;
    std::unordered_map<std::string, const ForeignLayer*> foreign_layers;  ///< by the tensor of the weight
    std::unordered_set<std::string> hidden;                               ///< what else belongs to them
    std::filesystem::path path;
    std::vector<std::string> names;
    std::unordered_map<std::string, WeightItem> items;

    const WeightItem& item(const std::string& name) const {
        const auto found = items.find(name);
        if (found != items.end()) return found->second;
        throw InvalidArgument("[read] " + path.string() + ": no tensor " + in_quotes(name) +
                              suggestion(name, names));
    }

    std::vector<std::string> stored_names() const {
        std::vector<std::string> stored;
        if (safetensors) {
            for (const std::string& name : safetensors->names())
                if (!hidden.contains(name)) stored.push_back(name);
            return stored;
        }
        for (const GgufTensor& tensor : gguf->header().tensors) stored.push_back(tensor.name);
        return stored;
    }

    // Formats that are not supported are refused before anything else is said about the file.
    void find_foreign_layers() {
        foreign = foreign_checkpoint(*safetensors);
        hidden.insert(foreign.marks.begin(), foreign.marks.end());
        for (const ForeignLayer& layer : foreign.layers) {
            if (!layer.read) read_foreign(*safetensors, layer);
            foreign_layers[layer.tensors.front()] = &layer;
            hidden.insert(layer.tensors.begin() + 1, layer.tensors.end());
        }
    }

    const ForeignLayer* foreign_layer(const std::string& stored) const {
        const auto found = foreign_layers.find(stored);
        return found == foreign_layers.end() ? nullptr : found->second;
    }

    // Of a layer whose weight is no tensor of that name.
    std::string shown_name(const std::string& stored) const {
        const ForeignLayer* layer = foreign_layer(stored);
        return layer == nullptr ? stored : layer->prefix + ".weight";
    }

    QuantizedLinearWeights foreign_rows(const ForeignLayer& layer, const StoredRows& part) const {
        QuantizedLinearWeights whole = read_foreign(*safetensors, layer);
        if (whole.bias.defined()) whole.stored_bytes -= safetensors->info(layer.prefix + ".bias").bytes();
        whole.bias = Tensor();
        return part.count == layer.n ? whole : rows_of(whole, part.first, part.count);
    }

    static DType dtype_of(const GgufType& type) {
        if (type.name == "F16") return DType::f16;
        return type.name == "BF16" ? DType::bf16 : DType::f32;
    }

    StoredInfo stored_info(const std::string& stored) const {
        if (const ForeignLayer* layer = foreign_layer(stored))
            return {DType::f32, {layer->n, layer->k}, true};
        if (safetensors) return {safetensors->info(stored).dtype, safetensors->info(stored).shape, true};
        const GgufTensor& tensor = gguf->tensor(stored);
        return {dtype_of(*tensor.type), tensor.shape, tensor.type->block == 1 || tensor.shape.size() > 1};
    }

    std::size_t bytes_of(const StoredRows& part) const {
        if (gguf) return blocks(part).size();
        if (const ForeignLayer* layer = foreign_layer(part.stored)) {
            std::size_t bytes = 0;
            for (const std::string& tensor : layer->tensors) bytes += safetensors->info(tensor).bytes();
            return bytes / static_cast<std::size_t>(layer->n) * static_cast<std::size_t>(part.count);
        }
        const TensorInfo& info = safetensors->info(part.stored);
        const std::int64_t rows = info.shape.empty() ? 1 : info.shape[0];
        return info.bytes() / static_cast<std::size_t>(rows < 1 ? 1 : rows) *
               static_cast<std::size_t>(part.count);
    }

    // The stored bytes of these rows.
    std::span<const std::byte> blocks(const StoredRows& part) const {
        const GgufTensor& tensor = gguf->tensor(part.stored);
        const std::int64_t row = element_count(tensor.shape) / tensor.shape[0];
        const auto bytes = [&](std::int64_t rows) {
            return static_cast<std::size_t>(rows * row / tensor.type->block * tensor.type->block_bytes);
        };
        return gguf->bytes(tensor).subspan(bytes(part.first), bytes(part.count));
    }

    Tensor rows(const StoredRows& part) const {
        if (const ForeignLayer* layer = foreign_layer(part.stored))
            return restored_weight(foreign_rows(*layer, part));
        if (safetensors) {
            const Tensor whole = safetensors->tensor(part.stored);
            if (whole.shape().empty() || part.count == whole.dim(0)) return whole;
            Shape shape = whole.shape();
            shape[0] = part.count;
            const std::size_t row = whole.bytes() / static_cast<std::size_t>(whole.dim(0));
            const auto* data =
                static_cast<const std::byte*>(whole.data()) + row * static_cast<std::size_t>(part.first);
            return {whole.dtype(), shape, static_cast<const void*>(data), std::make_shared<Tensor>(whole)};
        }
        const GgufTensor& tensor = gguf->tensor(part.stored);
        const std::span<const std::byte> bytes = blocks(part);
        Shape shape = tensor.shape;
        shape[0] = part.count;
        const DType dtype = dtype_of(*tensor.type);
        const bool plain = tensor.type->block == 1;
        if (plain && reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(dtype) == 0)
            return {dtype, shape, static_cast<const void*>(bytes.data()), gguf->bytes_owner()};
        Tensor out(dtype, shape);
        if (plain) {
            std::memcpy(out.mutable_data(), bytes.data(), bytes.size());
        } else {
            dequantize_blocks(*tensor.type, bytes, out.count(), out.mutable_as<float>());
        }
        gguf->check_intact();
        return out;
    }

    void name_tensors(const OriginalNames& original);

    // f(stored) for the tensors behind a name.
    template <typename F>
    void for_each_stored(const std::string& name, F&& f) const {
        for (const StoredRows& part : item(name).parts) {
            const ForeignLayer* layer = foreign_layer(part.stored);
            if (layer == nullptr) f(part.stored);
            for (const std::string& tensor : layer == nullptr ? std::vector<std::string>() : layer->tensors)
                f(tensor);
        }
    }
};

// Fills in the names and what is behind each of them.
void WeightFile::State::name_tensors(const OriginalNames& original) {
    const std::vector<std::string> stored = stored_names();
    const bool is_original = has_names_of(original, stored);
    const OriginalNames code = is_original ? original : OriginalNames{};
    for (const std::string& name : stored) {
        for (WeightItem& item : items_of(name, shown_name(name), stored_info(name), code)) {
            const std::string ours = item.info.name;
            bool used = true;
            for (const std::string_view unused : code.unused) used = used && ours != unused;
            if (!used) continue;
            if (!items.emplace(ours, std::move(item)).second)
                throw InvalidArgument("[read] " + path.string() + ": tensor " + in_quotes(ours) +
                                      " is there twice, once as " + in_quotes(name));
            names.push_back(ours);
        }
    }
}

WeightFile WeightFile::open(const std::filesystem::path& path, const OriginalNames& original) {
    auto state = std::make_shared<State>();
    state->path = path;
    if (has_extension(path, ".gguf"))
        state->gguf = GgufFile::open(path);
    else
        state->safetensors = SafetensorsFile::open(path);
    return named(std::move(state), original);
}

WeightFile WeightFile::renamed(const OriginalNames& original) const {
    auto state = std::make_shared<State>();
    state->path = state_->path;
    state->gguf = state_->gguf;
    state->safetensors = state_->safetensors;
    return named(std::move(state), original);
}

WeightFile WeightFile::named(std::shared_ptr<State> state, const OriginalNames& original) {
    if (state->safetensors) state->find_foreign_layers();
    state->name_tensors(original);
    WeightFile file;
    file.state_ = std::move(state);
    return file;
}

WeightFile WeightFile::of(SafetensorsFile tensors) {
    auto state = std::make_shared<State>();
    state->path = tensors.path();
    state->names = tensors.names();
    for (const std::string& name : state->names) {
        const TensorInfo& info = tensors.info(name);
        state->items.emplace(name, WeightItem{info, {{name, 0, info.shape.empty() ? 1 : info.shape[0]}}});
    }
    state->safetensors = std::move(tensors);
    WeightFile file;
    file.state_ = std::move(state);
    return file;
}

const std::vector<std::string>& WeightFile::names() const {
    return state_->names;
}

bool WeightFile::contains(const std::string& name) const {
    return state_->items.count(name) != 0;
}

const TensorInfo& WeightFile::info(const std::string& name) const {
    return state_->item(name).info;
}

std::string WeightFile::stored_type(const std::string& name) const {
    const WeightItem& item = state_->item(name);
    if (state_->gguf) return std::string(state_->gguf->tensor(item.parts[0].stored).type->name);
    const ForeignLayer* layer =
        item.parts.size() == 1 ? state_->foreign_layer(item.parts[0].stored) : nullptr;
    if (layer != nullptr) return layer->quant_type;
    return std::string(to_string(item.info.dtype));
}

std::size_t WeightFile::stored_bytes(const std::string& name) const {
    std::size_t bytes = 0;
    for (const StoredRows& part : state_->item(name).parts) bytes += state_->bytes_of(part);
    return bytes;
}

bool WeightFile::fits(const std::string& name, const Shape& shape) const {
    const Shape& stored = info(name).shape;
    if (stored == shape) return true;
    if (!state_->gguf || element_count(stored) != element_count(shape)) return false;
    const Shape there = without_leading_ones(stored), wanted = without_leading_ones(shape);
    if (there == wanted || wanted.size() > 2) return true;
    return wanted.size() == 2 && there.size() > 2 && there[0] == wanted[0];
}

Tensor WeightFile::tensor(const std::string& name) const {
    const WeightItem& item = state_->item(name);
    if (item.parts.size() == 1) return state_->rows(item.parts[0]);
    Tensor joined(item.info.dtype, item.info.shape);
    auto* to = static_cast<std::byte*>(joined.mutable_data());
    for (const StoredRows& part : item.parts) {
        const Tensor rows = state_->rows(part);
        std::memcpy(to, rows.data(), rows.bytes());
        to += rows.bytes();
    }
    return joined;
}

std::optional<QuantizedTensor> WeightFile::quantized(const std::string& name) const {
    const WeightItem& item = state_->item(name);
    if (!state_->gguf || item.info.shape.size() != 2) return std::nullopt;
    const GgufType& type = *state_->gguf->tensor(item.parts[0].stored).type;
    std::span<const std::byte> blocks = state_->blocks(item.parts[0]);
    std::vector<std::byte> joined;
    if (item.parts.size() > 1) {
        for (const StoredRows& part : item.parts) {
            const std::span<const std::byte> more = state_->blocks(part);
            joined.insert(joined.end(), more.begin(), more.end());
        }
        blocks = joined;
    }
    auto quantized = quantized_blocks(type, blocks, item.info.shape[0], item.info.shape[1]);
    state_->gguf->check_intact();
    return quantized;
}

std::optional<QuantizedLinearWeights> WeightFile::foreign_layer(const std::string& name) const {
    const WeightItem& item = state_->item(name);
    if (item.parts.size() != 1) return std::nullopt;
    const ForeignLayer* layer = state_->foreign_layer(item.parts[0].stored);
    if (layer == nullptr) return std::nullopt;
    return state_->foreign_rows(*layer, item.parts[0]);
}

std::string_view WeightFile::program() const {
    return state_->foreign.program;
}

void WeightFile::prefetch(const std::string& name) const {
    state_->for_each_stored(name, [&](const std::string& stored) {
        if (state_->gguf)
            state_->gguf->prefetch(state_->gguf->tensor(stored));
        else
            state_->safetensors->prefetch(stored);
    });
}

void WeightFile::release(const std::string& name) const {
    state_->for_each_stored(name, [&](const std::string& stored) {
        if (state_->gguf)
            state_->gguf->release(state_->gguf->tensor(stored));
        else
            state_->safetensors->release(stored);
    });
}

void WeightFile::check_intact() const {
    if (state_ == nullptr) return;
    if (state_->gguf)
        state_->gguf->check_intact();
    else
        state_->safetensors->check_intact();
}

const std::filesystem::path& WeightFile::path() const {
    return state_->path;
}

std::vector<std::filesystem::path> WeightFile::files() const {
    if (state_->safetensors) return state_->safetensors->files();
    return {state_->path};
}

}  // namespace aerogel
