// Safetensors headers: the frame around the JSON, the JSON itself, the places of the tensors, and the way
// back.
#include "core/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <unordered_set>
#include <utility>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr const char* kMetadata = "__metadata__";

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

// The dtype with that name in a file.
DType safetensors_dtype(std::string_view name, const std::string& where) {
    std::string known;
    for (const auto& [dtype, text] : kNames) {
        if (text == name) return dtype;
        known += (known.empty() ? "" : ", ") + std::string(text);
    }
    throw InvalidArgument(where + ": dtype must be one of " + known + ", got " + in_quotes(name));
}

// Walks over the JSON of a header: collects entries, checks their form but not their place. A tree would lose
// duplicate keys and could be made huge.
class HeaderHandler final : public JsonEvents {
  public:
    HeaderHandler(const std::string& where, SafetensorsHeader& header) : where_(where), header_(header) {}

    bool null() override { return other("null"); }
    bool boolean(bool) override { return other("a boolean"); }
    bool number_integer(std::int64_t value) override {
        return other("the negative number " + std::to_string(value));
    }
    bool number_float(double, const std::string& text) override {
        return other("the number " + printable(text));
    }

    bool number_unsigned(std::uint64_t value) override {
        if (place_ != Place::shape && place_ != Place::offsets) return other(std::to_string(value));
        numbers_.push_back(value);
        if (numbers_.size() > kMostNumbers) fail("more than 64 numbers in " + field());
        return true;
    }

    bool string(std::string& text) override {
        if (place_ == Place::metadata) {
            header_.metadata.emplace(key_, std::move(text));
        } else if (place_ == Place::tensor && key_ == "dtype") {
            entry_.info.dtype = safetensors_dtype(text, at());
        } else {
            return other("the string " + in_quotes(text));
        }
        return true;
    }

    bool start_object(std::size_t) override {
        switch (place_) {
            case Place::outside:
                place_ = Place::top;
                return true;
            case Place::top:
                keys_.clear();
                if (name_ == kMetadata) {
                    place_ = Place::metadata;
                } else {
                    place_ = Place::tensor;
                    entry_ = {};
                    entry_.info.name = name_;
                }
                return true;
            default:
                return other("an object");
        }
    }

    bool end_object() override {
        if (place_ == Place::tensor) {
            for (const char* needed : {"dtype", "shape", "data_offsets"}) {
                if (keys_.count(needed) == 0) fail(std::string("has no ") + needed);
            }
            header_.entries.push_back(std::move(entry_));
        }
        place_ = place_ == Place::top ? Place::outside : Place::top;
        return true;
    }

    bool start_array(std::size_t) override {
        const bool expected = place_ == Place::tensor && (key_ == "shape" || key_ == "data_offsets");
        if (!expected) return other("an array");
        numbers_.clear();
        place_ = key_ == "shape" ? Place::shape : Place::offsets;
        return true;
    }

    bool end_array() override {
        if (place_ == Place::shape) {
            for (const std::uint64_t size : numbers_) {
                if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                    fail("shape holds " + std::to_string(size) + ", more than 2^63 - 1");
                entry_.info.shape.push_back(static_cast<std::int64_t>(size));
            }
        } else {
            if (numbers_.size() != 2)
                fail("data_offsets must hold 2 numbers, got " + std::to_string(numbers_.size()));
            entry_.begin = numbers_[0];
            entry_.end = numbers_[1];
        }
        place_ = Place::tensor;
        return true;
    }

    bool key(std::string& text) override {
        if (place_ == Place::top) {
            name_ = text;
            if (!names_.insert(text).second)
                throw InvalidArgument(where_ + ": the name " + in_quotes(text) + " appears twice");
            return true;
        }
        if (!keys_.insert(text).second) fail("the key " + in_quotes(text) + " appears twice");
        if (place_ == Place::tensor && text != "dtype" && text != "shape" && text != "data_offsets")
            fail("unknown key " + in_quotes(text) + ", expected dtype, shape and data_offsets");
        key_ = std::move(text);
        return true;
    }

  private:
    // Where the walk is; there is no deeper place, so nesting is bounded by this list.
    enum class Place { outside, top, metadata, tensor, shape, offsets };
    static constexpr std::size_t kMostNumbers = 64;

    std::string at() const {
        return where_ + ": " + (name_ == kMetadata ? "" : "tensor ") + in_quotes(name_);
    }
    [[noreturn]] void fail(const std::string& what) const { throw InvalidArgument(at() + ": " + what); }
    std::string field() const { return place_ == Place::shape ? "shape" : "data_offsets"; }

    // A value of a kind that this place does not take.
    bool other(const std::string& got) const {
        switch (place_) {
            case Place::outside:
            case Place::top:
                fail("must be an object, got " + got);
            case Place::metadata:
                throw InvalidArgument(where_ + ": __metadata__ must hold strings, got " + got + " under " +
                                      in_quotes(key_));
            case Place::tensor:
                fail(key_ + " must be " + (key_ == "dtype" ? "a string" : "an array of numbers >= 0") +
                     ", got " + got);
            case Place::shape:
            case Place::offsets:
                fail(field() + " must hold whole numbers >= 0 and < 2^64, got " + got);
        }
        return false;
    }

    const std::string& where_;
    SafetensorsHeader& header_;
    Place place_ = Place::outside;
    std::string name_;
    std::string key_;
    SafetensorsEntry entry_;
    std::vector<std::uint64_t> numbers_;
    std::unordered_set<std::string> names_;
    std::unordered_set<std::string> keys_;
};

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

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name) {
    const std::string where = "[safetensors] " + name;
    const std::string_view json = header_json(file, where);
    SafetensorsHeader header;
    header.data_begin = kLengthBytes + json.size();
    HeaderHandler handler(where, header);
    parse_json(json, where + ": the header", handler);
    check_places(header, file.size() - header.data_begin, where);
    return header;
}

// Offsets by descending element size, then in the announced order: without padding, which the format
// forbids, this puts every element on its natural boundary. The reference implementation does the same.
std::vector<SafetensorsEntry> place_safetensors(const std::vector<TensorInfo>& tensors,
                                                const std::string& where) {
    std::vector<SafetensorsEntry> entries;
    std::set<std::string> names;
    for (const TensorInfo& info : tensors) {
        if (info.name == "__metadata__" || !names.insert(info.name).second) {
            throw InvalidArgument(where + ": the tensor name " + in_quotes(info.name) +
                                  (info.name == "__metadata__" ? " is reserved" : " is announced twice"));
        }
        entries.push_back({info, 0, 0});
    }
    std::vector<std::size_t> order(entries.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return size_of(entries[a].info.dtype) > size_of(entries[b].info.dtype);
    });
    std::uint64_t end = 0;
    for (const std::size_t i : order) {
        SafetensorsEntry& entry = entries[i];
        std::uint64_t bytes = 0;
        entry.begin = end;
        if (__builtin_mul_overflow(static_cast<std::uint64_t>(element_count(entry.info.shape)),
                                   size_of(entry.info.dtype), &bytes) ||
            __builtin_add_overflow(end, bytes, &end)) {
            throw InvalidArgument(where + ": tensor " + in_quotes(entry.info.name) +
                                  " is too large: " + to_string(entry.info.shape));
        }
        entry.end = end;
    }
    return entries;
}

std::uint64_t data_size(const std::vector<SafetensorsEntry>& entries) {
    std::uint64_t size = 0;
    for (const SafetensorsEntry& entry : entries) size = std::max(size, entry.end);
    return size;
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
