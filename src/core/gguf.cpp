// A cursor that never leaves the file, the pairs and entries of the header, and the places of the tensors.
// Counts are compared with the bytes that so many items need before anything is allocated for them.
#include "core/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::array kTypes = std::to_array<GgufType>({{0, "F32", 1, 4},
                                                       {1, "F16", 1, 2},
                                                       {30, "BF16", 1, 2},
                                                       {8, "Q8_0", 32, 34},
                                                       {2, "Q4_0", 32, 18},
                                                       {3, "Q4_1", 32, 20},
                                                       {6, "Q5_0", 32, 22},
                                                       {7, "Q5_1", 32, 24},
                                                       {10, "Q2_K", 256, 84},
                                                       {11, "Q3_K", 256, 110},
                                                       {12, "Q4_K", 256, 144},
                                                       {13, "Q5_K", 256, 176},
                                                       {14, "Q6_K", 256, 210}});

// Types of values of the header; sizes of those that have one.
enum class Value : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
constexpr std::array<std::size_t, 13> kValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr std::array<std::string_view, 13> kValueNames = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::uint32_t kMostAlignment = 1U << 20;
constexpr std::uint64_t kLongestName = 1U << 16;
constexpr std::uint32_t kMostAxes = 8;
constexpr int kMostNesting = 4;
constexpr std::size_t kLeastPair = 8 + 4 + 1, kLeastEntry = 8 + 4 + 4 + 8;

class Cursor {
  public:
    Cursor(std::span<const std::byte> file, std::string where) : file_(file), where_(std::move(where)) {}

    [[noreturn]] void fail(const std::string& what) const { throw InvalidArgument(where_ + ": " + what); }
    const std::string& where() const { return where_; }
    std::size_t at() const { return at_; }
    std::size_t left() const { return file_.size() - at_; }

    void skip(std::uint64_t bytes, const char* what) {
        if (bytes > left())
            fail("truncated: " + std::string(what) + " needs " + std::to_string(bytes) + " bytes at byte " +
                 std::to_string(at_) + ", the file has " + std::to_string(file_.size()));
        at_ += static_cast<std::size_t>(bytes);
    }

    template <typename T>
    T number(const char* what) {
        skip(sizeof(T), what);
        T value;
        std::memcpy(&value, file_.data() + at_ - sizeof(T), sizeof(T));
        return value;
    }

    std::string text(const char* what, std::uint64_t longest) {
        const auto length = number<std::uint64_t>(what);
        if (length > longest)
            fail(std::string(what) + " must have at most " + std::to_string(longest) + " bytes, got " +
                 std::to_string(length));
        skip(length, what);
        const auto size = static_cast<std::size_t>(length);
        return {reinterpret_cast<const char*>(file_.data()) + at_ - size, size};
    }

    // A number of items that need at least so many bytes each.
    std::uint64_t count(const char* what, std::size_t least_bytes) {
        const auto items = number<std::uint64_t>(what);
        check_count(items, what, least_bytes);
        return items;
    }
    void check_count(std::uint64_t items, const char* what, std::size_t least_bytes) const {
        if (items > left() / least_bytes)
            fail(std::string(what) + " says " + std::to_string(items) + ", but only " +
                 std::to_string(left()) + " bytes follow");
    }

  private:
    std::span<const std::byte> file_;
    std::string where_;
    std::size_t at_ = 0;
};

Value value_type(Cursor& in, const std::string& key) {
    const auto type = in.number<std::uint32_t>("a type of values");
    if (type >= kValueNames.size())
        in.fail("key " + in_quotes(key) + ": the type of a value must be 0 to 12, got " +
                std::to_string(type));
    return static_cast<Value>(type);
}

template <typename T>
std::string as_text(Cursor& in) {
    return std::to_string(in.number<T>("a number"));
}

std::string scalar(Cursor& in, const std::string& key, Value type) {
    switch (type) {
        case Value::u8:
            return as_text<std::uint8_t>(in);
        case Value::i8:
            return as_text<std::int8_t>(in);
        case Value::u16:
            return as_text<std::uint16_t>(in);
        case Value::i16:
            return as_text<std::int16_t>(in);
        case Value::u32:
            return as_text<std::uint32_t>(in);
        case Value::i32:
            return as_text<std::int32_t>(in);
        case Value::u64:
            return as_text<std::uint64_t>(in);
        case Value::i64:
            return as_text<std::int64_t>(in);
        case Value::f32:
            return as_text<float>(in);
        case Value::f64:
            return as_text<double>(in);
        case Value::boolean: {
            const auto value = in.number<std::uint8_t>("a boolean");
            if (value > 1)
                in.fail("key " + in_quotes(key) + ": a boolean must be 0 or 1, got " + std::to_string(value));
            return value == 0 ? "false" : "true";
        }
        default:
            return in.text("a string", in.left());
    }
}

// The items of an array are walked over, not kept.
std::string skip_array(Cursor& in, const std::string& key, int depth) {
    const Value type = value_type(in, key);
    const std::size_t bytes = kValueBytes[static_cast<std::size_t>(type)];
    const auto items = in.number<std::uint64_t>("the length of an array");
    in.check_count(items, "the length of an array", bytes != 0 ? bytes : type == Value::string ? 8 : 12);
    if (bytes != 0) {
        in.skip(items * bytes, "an array");
    } else if (type == Value::string) {
        for (std::uint64_t i = 0; i < items; ++i) in.skip(in.number<std::uint64_t>("a string"), "a string");
    } else {
        if (depth == kMostNesting) in.fail("key " + in_quotes(key) + ": arrays are nested too deep");
        for (std::uint64_t i = 0; i < items; ++i) skip_array(in, key, depth + 1);
    }
    return std::to_string(items) + " x " + std::string(kValueNames[static_cast<std::size_t>(type)]);
}

std::uint32_t alignment_of(const Cursor& in, Value type, const std::string& value) {
    const std::uint64_t alignment = type == Value::u32 ? std::stoull(value) : 0;
    const bool power = alignment != 0 && (alignment & (alignment - 1)) == 0;
    if (!power || alignment > kMostAlignment)
        in.fail("general.alignment must be a u32 and a power of two up to 2^20, got " +
                std::string(kValueNames[static_cast<std::size_t>(type)]) + " " + printable(value));
    return static_cast<std::uint32_t>(alignment);
}

// Reads the pairs; returns the alignment of the data.
std::uint32_t read_pairs(Cursor& in, std::uint64_t pairs, GgufHeader& header) {
    std::uint32_t alignment = kDefaultAlignment;
    for (std::uint64_t i = 0; i < pairs; ++i) {
        const std::string key = in.text("a key", kLongestName);
        const Value type = value_type(in, key);
        std::string value = type == Value::array ? skip_array(in, key, 0) : scalar(in, key, type);
        if (key == "general.alignment") alignment = alignment_of(in, type, value);
        if (!header.metadata.emplace(key, std::move(value)).second)
            in.fail("the key " + in_quotes(key) + " appears twice");
    }
    return alignment;
}

const GgufType& type_of(const Cursor& in, const std::string& tensor, std::uint32_t number) {
    std::string known;
    for (const GgufType& type : kTypes) {
        if (type.number == number) return type;
        known += (known.empty() ? "" : ", ") + std::string(type.name);
    }
    throw Unsupported(in.where() + ": tensor " + in_quotes(tensor) + ": the type must be one of " + known +
                      ", got number " + std::to_string(number));
}

// Bytes of a tensor of these axes, which are at least 1.
std::uint64_t bytes_of(const Cursor& in, const GgufTensor& tensor) {
    std::int64_t count = 1;
    for (const std::int64_t size : tensor.shape) {
        if (__builtin_mul_overflow(count, size, &count))
            in.fail("tensor " + in_quotes(tensor.name) + ": the size of " + to_string(tensor.shape) +
                    " overflows");
    }
    const GgufType& type = *tensor.type;
    if (tensor.shape.back() % type.block != 0) {
        in.fail("tensor " + in_quotes(tensor.name) + ": rows of " + std::string(type.name) +
                " must be a multiple of " + std::to_string(type.block) + " long, got " +
                to_string(tensor.shape));
    }
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(count / type.block, type.block_bytes, &bytes))
        in.fail("tensor " + in_quotes(tensor.name) + ": the size of " + to_string(tensor.shape) +
                " overflows");
    return static_cast<std::uint64_t>(bytes);
}

GgufTensor read_entry(Cursor& in) {
    GgufTensor tensor;
    tensor.name = in.text("the name of a tensor", kLongestName);
    const auto axes = in.number<std::uint32_t>("a number of axes");
    if (axes < 1 || axes > kMostAxes)
        in.fail("tensor " + in_quotes(tensor.name) + ": must have 1 to 8 axes, got " + std::to_string(axes));
    for (std::uint32_t axis = 0; axis < axes; ++axis) {
        const auto size = in.number<std::uint64_t>("a size");
        if (size < 1 || size > static_cast<std::uint64_t>(INT64_MAX))
            in.fail("tensor " + in_quotes(tensor.name) + ": sizes must be 1 to 2^63 - 1, got " +
                    std::to_string(size));
        tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
    }
    tensor.type = &type_of(in, tensor.name, in.number<std::uint32_t>("a type of tensors"));
    tensor.begin = in.number<std::uint64_t>("an offset");
    tensor.bytes = bytes_of(in, tensor);
    return tensor;
}

// Offsets become places in the file. Nothing overlaps, nothing lies behind the end.
void place_tensors(const Cursor& in, std::uint32_t alignment, std::uint64_t file_size, GgufHeader& header) {
    const std::uint64_t data_begin = (in.at() + alignment - 1) / alignment * alignment;
    std::vector<const GgufTensor*> by_place;
    for (GgufTensor& tensor : header.tensors) {
        if (tensor.begin % alignment != 0)
            in.fail("tensor " + in_quotes(tensor.name) + ": the offset must be a multiple of " +
                    std::to_string(alignment) + ", got " + std::to_string(tensor.begin));
        const std::uint64_t room = file_size > data_begin ? file_size - data_begin : 0;
        if (tensor.begin > room || tensor.bytes > room - tensor.begin)
            in.fail("truncated, or wrong offsets: tensor " + in_quotes(tensor.name) + " has " +
                    std::to_string(tensor.bytes) + " bytes at byte " + std::to_string(tensor.begin) +
                    " of the data, which has " + std::to_string(room));
        tensor.begin += data_begin;
        by_place.push_back(&tensor);
    }
    std::sort(by_place.begin(), by_place.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
    for (std::size_t i = 1; i < by_place.size(); ++i) {
        const GgufTensor &before = *by_place[i - 1], &after = *by_place[i];
        if (before.begin + before.bytes > after.begin)
            in.fail("tensors " + in_quotes(before.name) + " and " + in_quotes(after.name) + " overlap");
    }
}

}  // namespace

GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& name) {
    Cursor in(file, "[gguf] " + name);
    constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
    if (in.left() < sizeof(kMagic) || in.number<std::uint32_t>("the magic number") != kMagic)
        in.fail("not a GGUF file: must begin with 'GGUF'");
    GgufHeader header;
    header.version = in.number<std::uint32_t>("the version");
    if (header.version != 2 && header.version != 3)
        in.fail("the version must be 2 or 3, little-endian, got " + std::to_string(header.version));
    const std::uint64_t tensors = in.count("the number of tensors", kLeastEntry);
    const std::uint64_t pairs = in.count("the number of keys", kLeastPair);
    const std::uint32_t alignment = read_pairs(in, pairs, header);
    in.check_count(tensors, "the number of tensors", kLeastEntry);
    std::set<std::string> names;
    for (std::uint64_t i = 0; i < tensors; ++i) {
        header.tensors.push_back(read_entry(in));
        if (!names.insert(header.tensors.back().name).second)
            in.fail("the tensor " + in_quotes(header.tensors.back().name) + " appears twice");
    }
    place_tensors(in, alignment, file.size(), header);
    return header;
}

GgufFile GgufFile::open(const std::filesystem::path& path) {
    GgufFile file;
    file.path_ = path;
    file.file_ = MappedFile::open(path);
    file.header_ = parse_gguf(file.file_->bytes(), path.string());
    file.file_->check_intact();
    for (std::size_t i = 0; i < file.header_.tensors.size(); ++i)
        file.places_.emplace(file.header_.tensors[i].name, i);
    return file;
}

const GgufTensor& GgufFile::tensor(const std::string& name) const {
    const auto found = places_.find(name);
    if (found != places_.end()) return header_.tensors[found->second];
    std::vector<std::string> names;
    for (const GgufTensor& tensor : header_.tensors) names.push_back(tensor.name);
    throw InvalidArgument("[gguf] " + path_.string() + ": no tensor " + in_quotes(name) +
                          suggestion(name, names));
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
    return file_->bytes().subspan(static_cast<std::size_t>(tensor.begin),
                                  static_cast<std::size_t>(tensor.bytes));
}

void GgufFile::prefetch(const GgufTensor& tensor) const {
    file_->read_ahead(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.bytes));
}

void GgufFile::release(const GgufTensor& tensor) const {
    file_->release(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.bytes));
}

void GgufFile::check_intact() const {
    file_->check_intact();
}

}  // namespace aerogel
