// Safetensors headers: the frame around the JSON, the places of the tensors, and the way back.
#include "core/safetensors_header.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "aerogel/error.h"
#include "core/safetensors_json.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::size_t kLengthBytes = 8;

constexpr std::array<std::pair<DType, std::string_view>, 16> kNames = {{{DType::boolean, "BOOL"},
                                                                        {DType::u8, "U8"},
                                                                        {DType::i8, "I8"},
                                                                        {DType::f8_e5m2, "F8_E5M2"},
                                                                        {DType::f8_e4m3, "F8_E4M3"},
                                                                        {DType::f8_e8m0, "F8_E8M0"},
                                                                        {DType::i16, "I16"},
                                                                        {DType::u16, "U16"},
                                                                        {DType::f16, "F16"},
                                                                        {DType::bf16, "BF16"},
                                                                        {DType::i32, "I32"},
                                                                        {DType::u32, "U32"},
                                                                        {DType::f32, "F32"},
                                                                        {DType::f64, "F64"},
                                                                        {DType::i64, "I64"},
                                                                        {DType::u64, "U64"}}};

// The length and the JSON, checked against the size of the file.
std::string_view header_json(std::span<const std::byte> file, const std::string& where) {
    const std::string size = std::to_string(file.size());
    if (file.size() < kLengthBytes) {
        throw InvalidArgument(where + ": not a safetensors file: must have at least 8 bytes, got " + size);
    }
    std::uint64_t length = 0;
    for (std::size_t i = kLengthBytes; i-- > 0;) length = (length << 8) | static_cast<std::uint64_t>(file[i]);
    if (length > kSafetensorsHeaderLimit) {
        throw InvalidArgument(where +
                              ": not a safetensors file, or a damaged one: the header must be at most " +
                              std::to_string(kSafetensorsHeaderLimit) + " bytes long, its length says " +
                              std::to_string(length));
    }
    if (length > file.size() - kLengthBytes) {
        throw InvalidArgument(where + ": truncated, or not a safetensors file: the header should have " +
                              std::to_string(length) + " bytes after the first 8, the whole file has " +
                              size);
    }
    const std::string_view json(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                                static_cast<std::size_t>(length));
    if (json.empty() || json.front() != '{') {
        throw InvalidArgument(where + ": not a safetensors file: the header must begin with '{', got " +
                              (json.empty() ? "nothing" : in_quotes(json.substr(0, 1))));
    }
    return json;
}

void check_size(const SafetensorsEntry& entry, const std::string& where) {
    const TensorInfo& info = entry.info;
    const std::string at = where + ": tensor " + in_quotes(info.name);
    const std::string kind = std::string(to_string(info.dtype)) + to_string(info.shape);
    // Sizes of 0 are left out first: "[0, 2^62]" holds nothing, but no program can work with its strides.
    std::int64_t bytes = static_cast<std::int64_t>(size_of(info.dtype));
    bool empty = false;
    for (const std::int64_t size : info.shape) {
        empty = empty || size == 0;
        if (size != 0 && __builtin_mul_overflow(bytes, size, &bytes))
            throw InvalidArgument(at + ": the size of " + kind + " overflows");
    }
    if (empty) bytes = 0;
    if (entry.begin > entry.end || entry.end - entry.begin != static_cast<std::uint64_t>(bytes)) {
        throw InvalidArgument(at + ": data_offsets must span " + std::to_string(bytes) + " bytes (" + kind +
                              "), got " + std::to_string(entry.begin) + " to " + std::to_string(entry.end));
    }
}

// The tensors must cover the data exactly: no hole, no overlap, nothing left.
void check_places(const SafetensorsHeader& header, std::uint64_t data_size, const std::string& where) {
    std::vector<const SafetensorsEntry*> by_place;
    by_place.reserve(header.entries.size());
    for (const auto& entry : header.entries) {
        check_size(entry, where);
        by_place.push_back(&entry);
    }
    std::sort(by_place.begin(), by_place.end(), [](const auto* a, const auto* b) {
        return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    std::uint64_t end = 0;
    for (const auto* entry : by_place) {
        if (entry->end > data_size) {
            throw InvalidArgument(where + ": truncated, or wrong offsets: tensor " +
                                  in_quotes(entry->info.name) + " ends at byte " +
                                  std::to_string(entry->end) + " of the data, which has " +
                                  std::to_string(data_size));
        }
        if (entry->begin != end) {
            throw InvalidArgument(where + ": tensor " + in_quotes(entry->info.name) + " must begin at byte " +
                                  std::to_string(end) + " of the data, where the one before it ends, got " +
                                  std::to_string(entry->begin) +
                                  (entry->begin < end ? " (they overlap)" : " (a hole)"));
        }
        end = entry->end;
    }
    if (end != data_size) {
        throw InvalidArgument(where + ": the tensors end at byte " + std::to_string(end) +
                              " of the data, which has " + std::to_string(data_size) + " bytes");
    }
}

}  // namespace

std::string_view safetensors_name(DType dtype) {
    const auto* row =
        std::find_if(kNames.begin(), kNames.end(), [&](const auto& name) { return name.first == dtype; });
    return row->second;
}

DType safetensors_dtype(std::string_view name, const std::string& where) {
    std::string known;
    for (const auto& [dtype, text] : kNames) {
        if (text == name) return dtype;
        known += (known.empty() ? "" : ", ") + std::string(text);
    }
    throw InvalidArgument(where + ": dtype must be one of " + known + ", got " + in_quotes(name));
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name) {
    const std::string where = "[safetensors] " + name;
    const std::string_view json = header_json(file, where);
    SafetensorsHeader header;
    header.data_begin = kLengthBytes + json.size();
    parse_safetensors_json(json, where, header);
    check_places(header, file.size() - header.data_begin, where);
    return header;
}

std::string encode_safetensors_header(const std::vector<SafetensorsEntry>& entries,
                                      const std::map<std::string, std::string>& metadata) {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    auto& items = json.get_ref<nlohmann::ordered_json::object_t&>();
    if (!metadata.empty()) items.emplace_back("__metadata__", metadata);
    for (const auto& entry : entries) {
        nlohmann::ordered_json item;
        item["dtype"] = safetensors_name(entry.info.dtype);
        item["shape"] = entry.info.shape;
        item["data_offsets"] = {entry.begin, entry.end};
        items.emplace_back(entry.info.name, std::move(item));
    }
    std::string text;
    try {
        text = json.dump();
    } catch (const nlohmann::json::exception&) {
        throw InvalidArgument("[safetensors] a tensor name or metadata string is not valid UTF-8");
    }
    text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
    std::string length(kLengthBytes, '\0');
    for (std::size_t i = 0; i < kLengthBytes; ++i)
        length[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
    return length + text;
}

}  // namespace aerogel
