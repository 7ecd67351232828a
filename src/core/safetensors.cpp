// Safetensors files. SafetensorsFile: single files, sharded sets and tensors in memory, as one table of
// names. SafetensorsWriter: the header first, then each tensor at its place, then the final name.
#include <cstring>
#include <set>
#include <unordered_map>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/atomic_file.h"
#include "core/input_file.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/paths.h"
#include "core/safetensors_header.h"
#include "core/text.h"

namespace aerogel {

struct SafetensorsFile::State {
    struct Item {
        TensorInfo info;
        std::shared_ptr<const MappedFile> file;
        std::uint64_t begin = 0;  // in the file
        Tensor in_memory;         // instead of a file
    };
    std::filesystem::path path;
    std::vector<std::filesystem::path> files;
    std::vector<std::shared_ptr<const MappedFile>> mapped;
    std::vector<std::string> names;
    std::unordered_map<std::string, Item> items;
    std::map<std::string, std::string> metadata;

    const Item& item(const std::string& name) const {
        const auto found = items.find(name);
        if (found != items.end()) return found->second;
        throw InvalidArgument("[safetensors] " + path.string() + ": no tensor " + in_quotes(name) +
                              (names.empty() ? ", the file holds none" : suggestion(name, names)));
    }

    // Takes all tensors of one file; returns their names.
    std::vector<std::string> add_file(const std::filesystem::path& file_path) {
        const auto file = MappedFile::open(file_path);
        files.push_back(file_path);
        mapped.push_back(file);
        SafetensorsHeader header = parse_safetensors(file->bytes(), file_path.string());
        file->check_intact();
        std::vector<std::string> added;
        for (SafetensorsEntry& entry : header.entries) {
            const std::string name = entry.info.name;
            Item item{std::move(entry.info), file, header.data_begin + entry.begin, {}};
            if (!items.emplace(name, std::move(item)).second) {
                throw InvalidArgument("[safetensors] " + file_path.string() + ": tensor " + in_quotes(name) +
                                      " is in another shard too");
            }
            added.push_back(name);
        }
        names.insert(names.end(), added.begin(), added.end());
        for (auto& [key, value] : header.metadata) metadata.insert_or_assign(key, std::move(value));
        return added;
    }
};

namespace {

// Shard file -> the tensors the index promises there.
using Shards = std::map<std::string, std::vector<std::string>>;

Shards read_index(const std::filesystem::path& path) {
    const std::string where = "[safetensors] " + path.string();
    Shards shards;
    for (JsonString& item : read_json_strings(read_text_file(path, "safetensors", kJsonSizeLimit), where)) {
        if (!item.nested || item.parent != "weight_map") continue;
        // Shards lie beside the index; a path could lead anywhere.
        const bool plain = !item.value.empty() && item.value.find('/') == std::string::npos &&
                           item.value.find('\0') == std::string::npos && item.value != "." &&
                           item.value != "..";
        if (!plain) {
            throw InvalidArgument(where + ": tensor " + in_quotes(item.key) +
                                  ": the shard must be a file name in the folder of the index, got " +
                                  in_quotes(item.value));
        }
        shards[item.value].push_back(std::move(item.key));
    }
    if (shards.empty()) {
        throw InvalidArgument(where +
                              ": must have an object 'weight_map' from tensor names to shard files, it "
                              "has none");
    }
    return shards;
}

bool is_index(const std::filesystem::path& path) {
    return has_extension(path, ".json");
}

void need_values(const std::string& file, const std::string& name, const Tensor& tensor) {
    if (tensor.defined()) return;
    throw InvalidArgument("[safetensors] " + file + ": tensor " + in_quotes(name) + " has no values");
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
    auto state = std::make_shared<State>();
    state->path = path;
    if (!is_index(path)) {
        state->add_file(path);
    } else {
        for (const auto& [shard, promised] : read_index(path)) {
            const std::filesystem::path shard_path = path.parent_path() / shard;
            if (!path_exists(shard_path)) {
                throw IoError("[safetensors] " + path.string() + ": the shard " + in_quotes(shard) +
                              " does not exist, it should hold " + std::to_string(promised.size()) +
                              " tensors, " + in_quotes(promised.front()) + " first");
            }
            const std::vector<std::string> added = state->add_file(shard_path);
            const std::set<std::string> present(added.begin(), added.end());
            for (const std::string& name : promised) {
                if (present.count(name) != 0) continue;
                throw InvalidArgument("[safetensors] " + path.string() + ": tensor " + in_quotes(name) +
                                      " should be in the shard " + in_quotes(shard) + ", it is not there");
            }
        }
    }
    SafetensorsFile file;
    file.state_ = std::move(state);
    return file;
}

SafetensorsFile SafetensorsFile::of_tensors(const std::string& name,
                                            std::vector<std::pair<std::string, Tensor>> tensors) {
    auto state = std::make_shared<State>();
    state->path = name;
    for (auto& named : tensors) {
        const std::string& key = named.first;
        Tensor& tensor = named.second;
        need_values(name, key, tensor);
        State::Item item{{key, tensor.dtype(), tensor.shape()}, nullptr, 0, std::move(tensor)};
        if (!state->items.emplace(key, std::move(item)).second) {
            throw InvalidArgument("[safetensors] " + name + ": tensor " + in_quotes(key) + " is given twice");
        }
        state->names.push_back(key);
    }
    SafetensorsFile file;
    file.state_ = std::move(state);
    return file;
}

const SafetensorsFile::State& SafetensorsFile::state() const {
    if (state_ == nullptr) throw InvalidArgument("[safetensors] no file was opened");
    return *state_;
}

const std::vector<std::string>& SafetensorsFile::names() const {
    return state().names;
}
bool SafetensorsFile::contains(const std::string& name) const {
    return state().items.count(name) != 0;
}
const TensorInfo& SafetensorsFile::info(const std::string& name) const {
    return state().item(name).info;
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
    return state().metadata;
}
const std::filesystem::path& SafetensorsFile::path() const {
    return state().path;
}
const std::vector<std::filesystem::path>& SafetensorsFile::files() const {
    return state().files;
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
    const State::Item& item = state().item(name);
    if (item.file == nullptr) return item.in_memory;
    const TensorInfo& info = item.info;
    const std::byte* bytes = item.file->bytes().data() + item.begin;
    // Kernels expect elements on their natural boundary; a file from elsewhere may place them anywhere.
    const auto address = reinterpret_cast<std::uintptr_t>(bytes);
    if (address % size_of(info.dtype) == 0) {
        Tensor mapped(info.dtype, info.shape, bytes, item.file);
        item.file->read_ahead(item.begin, mapped.bytes());
        return mapped;
    }
    Tensor copy(info.dtype, info.shape);
    std::memcpy(copy.mutable_data(), bytes, copy.bytes());
    item.file->check_intact();
    return copy;
}

void SafetensorsFile::check_intact() const {
    if (state_ == nullptr) return;
    for (const auto& file : state_->mapped) file->check_intact();
}

void SafetensorsFile::prefetch(const std::string& name) const {
    const State::Item& item = state().item(name);
    if (item.file != nullptr) item.file->read_ahead(item.begin, item.info.bytes());
}

void SafetensorsFile::release(const std::string& name) const {
    const State::Item& item = state().item(name);
    if (item.file != nullptr) item.file->release(item.begin, item.info.bytes());
}

struct SafetensorsWriter::State {
    std::string where;
    std::vector<SafetensorsEntry> entries;
    std::uint64_t data_begin = 0;
    std::size_t next = 0;
    bool finished = false;
    std::unique_ptr<AtomicFile> file;
};

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<TensorInfo>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : state_(std::make_unique<State>()) {
    State& state = *state_;
    state.where = "[safetensors] " + path.string();
    state.entries = place_safetensors(tensors, state.where);
    const std::string header = encode_safetensors_header(state.entries, metadata);
    if (header.size() > kSafetensorsHeaderLimit) {
        throw InvalidArgument(state.where + ": the header must be at most " +
                              std::to_string(kSafetensorsHeaderLimit) + " bytes long, got " +
                              std::to_string(header.size()));
    }
    state.data_begin = header.size();
    state.file = std::make_unique<AtomicFile>(path);
    state.file->reserve(state.data_begin + data_size(state.entries));
    state.file->write(header);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, const TensorView& tensor) {
    State& state = *state_;
    if (state.next == state.entries.size()) {
        throw InvalidArgument(state.where + ": all " + std::to_string(state.next) +
                              " announced tensors are written, got " + in_quotes(name));
    }
    const SafetensorsEntry& entry = state.entries[state.next];
    if (name != entry.info.name || tensor.dtype != entry.info.dtype || tensor.shape != entry.info.shape) {
        const TensorView announced{entry.info.dtype, entry.info.shape, nullptr, {}, Device::cpu};
        throw InvalidArgument(state.where + ": the next tensor must be " + in_quotes(entry.info.name) + " " +
                              announced.describe() + ", got " + in_quotes(name) + " " + tensor.describe());
    }
    const bool has_data = tensor.data != nullptr || entry.begin == entry.end;
    if (tensor.device != Device::cpu || !tensor.contiguous() || !has_data) {
        throw InvalidArgument(state.where + ": tensor " + in_quotes(name) +
                              " must be contiguous and in CPU memory" + (has_data ? "" : ", it has no data"));
    }
    state.file->write_at(state.data_begin + entry.begin, tensor.data,
                         static_cast<std::size_t>(entry.end - entry.begin));
    ++state.next;
}

void SafetensorsWriter::finish() {
    State& state = *state_;
    if (state.next != state.entries.size()) {
        throw InvalidArgument(state.where + ": " + std::to_string(state.entries.size()) +
                              " tensors were announced, got " + std::to_string(state.next) + "; " +
                              in_quotes(state.entries[state.next].info.name) + " is missing");
    }
    if (std::exchange(state.finished, true)) throw InvalidArgument(state.where + ": is finished already");
    state.file->commit();
}

void save_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
    std::vector<TensorInfo> infos;
    for (const auto& [name, tensor] : tensors) {
        need_values(path.string(), name, tensor);
        infos.push_back({name, tensor.dtype(), tensor.shape()});
    }
    SafetensorsWriter writer(path, infos, metadata);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
}

}  // namespace aerogel
