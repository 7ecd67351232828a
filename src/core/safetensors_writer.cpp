// SafetensorsWriter: the header first, then each tensor at its place, then the final name.
#include <utility>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/atomic_file.h"
#include "core/safetensors_header.h"
#include "core/text.h"

namespace aerogel {
struct SafetensorsWriter::State {
    std::string where;
    std::vector<SafetensorsEntry> entries;
    std::uint64_t data_begin = 0;
    std::size_t next = 0;
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
    if (tensor.device != Device::cpu || !tensor.contiguous()) {
        throw InvalidArgument(state.where + ": tensor " + in_quotes(name) +
                              " must be contiguous and in CPU memory");
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
    state.file->commit();
}

void save_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
    std::vector<TensorInfo> infos;
    for (const auto& [name, tensor] : tensors) infos.push_back({name, tensor.dtype(), tensor.shape()});
    SafetensorsWriter writer(path, infos, metadata);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
    writer.finish();
}

}  // namespace aerogel
