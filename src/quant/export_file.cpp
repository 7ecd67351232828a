// A note is "UNIT CHECKSUM ERROR": a decimal number and two bit patterns in hexadecimal.
#include "quant/export_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <span>
#include <string_view>

#include "aerogel/error.h"
#include "core/hash.h"

namespace aerogel {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 24;  // what is hashed, written or read at a time

// Takes one number and the space behind it from the front of `text`.
std::optional<std::uint64_t> take_number(std::string_view& text, int base) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc{}) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (!text.empty()) text.remove_prefix(1);
    return value;
}

// Every piece continues the hash of those before it.
std::uint64_t add_to_hash(std::uint64_t hash, const void* data, std::size_t size) {
    return hash_bytes({static_cast<const std::byte*>(data), size}, hash);
}

}  // namespace

ExportFile::ExportFile(const std::filesystem::path& path, const Units& units) {
    std::vector<TensorInfo> tensors;
    for (const auto& unit : units) {
        first_entry_.push_back(tensors.size());
        tensors.insert(tensors.end(), unit.begin(), unit.end());
    }
    first_entry_.push_back(tensors.size());
    entries_ = place_safetensors(tensors, "[quantize] " + path.string());
    header_ = encode_safetensors_header(entries_, {});
    data_begin_ = header_.size();
    file_.emplace(path);
}

void ExportFile::begin(const std::string& key) {
    file_->begin(key, data_begin_ + data_size(entries_));
    file_->write_at(0, header_.data(), header_.size());
    read_notes();
}

void ExportFile::read_notes() {
    for (const std::string& line : file_->notes()) {
        std::string_view rest = line;
        const auto unit = take_number(rest, 10);
        const auto checksum = take_number(rest, 16);
        const auto error = take_number(rest, 16);
        if (!unit || !checksum || !error || *unit + 1 >= first_entry_.size()) continue;
        notes_[static_cast<std::size_t>(*unit)] = {*checksum, std::bit_cast<double>(*error)};
    }
}

std::optional<double> ExportFile::finished(std::size_t unit) const {
    const auto note = notes_.find(unit);
    if (note == notes_.end()) return std::nullopt;
    std::uint64_t checksum = 0;
    std::vector<std::byte> piece;
    for (std::size_t i = first_entry_[unit]; i < first_entry_[unit + 1]; ++i) {
        const SafetensorsEntry& entry = entries_[i];
        for (std::uint64_t at = entry.begin; at < entry.end; at += kPiece) {
            piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, entry.end - at)));
            file_->read_at(data_begin_ + at, piece.data(), piece.size());
            checksum = add_to_hash(checksum, piece.data(), piece.size());
        }
    }
    if (checksum != note->second.checksum) return std::nullopt;
    return note->second.error;
}

void ExportFile::write(std::size_t unit, const std::vector<Tensor>& tensors, double error) {
    std::uint64_t checksum = 0;
    for (std::size_t i = first_entry_[unit]; i < first_entry_[unit + 1]; ++i) {
        const SafetensorsEntry& entry = entries_[i];
        const Tensor& tensor = tensors.at(i - first_entry_[unit]);
        if (tensor.dtype() != entry.info.dtype || tensor.shape() != entry.info.shape) {
            throw InvalidArgument(fmt::format("[quantize] {} was announced as {}{}, got {}", entry.info.name,
                                              to_string(entry.info.dtype), to_string(entry.info.shape),
                                              tensor.describe()));
        }
        const auto* bytes = static_cast<const std::byte*>(tensor.data());
        for (std::size_t at = 0; at < tensor.bytes(); at += kPiece) {
            const std::size_t size = std::min(kPiece, tensor.bytes() - at);
            checksum = add_to_hash(checksum, bytes + at, size);
            file_->write_at(data_begin_ + entry.begin + at, bytes + at, size);
        }
        file_->start_writing(data_begin_ + entry.begin, tensor.bytes());
    }
    file_->note(fmt::format("{} {:016x} {:016x}", unit, checksum, std::bit_cast<std::uint64_t>(error)));
}

}  // namespace aerogel
