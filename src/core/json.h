// The one JSON reader. Files come from anywhere, so there are limits on size, depth and the number of values,
// and what does not keep to them is an InvalidArgument that names the file and the place. JsonNode has the
// checked getters. Writing JSON for people and programs never fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

inline constexpr std::size_t kJsonSizeLimit = 100'000'000;  ///< bytes, as the headers of safetensors
inline constexpr std::size_t kJsonDepthLimit = 64;          ///< objects and arrays in each other
inline constexpr std::size_t kJsonValueLimit = 2'000'000;   ///< values of a tree

/// What the parser meets, in the order of the text; all of it is ignored unless overridden.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
  public:
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return true; }
    bool key(string_t&) override { return true; }
    bool end_object() override { return true; }
    bool start_array(std::size_t) override { return true; }
    bool end_array() override { return true; }
    bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) final {
        return false;
    }
};

/// Parses an object without building anything. `where` ("[description] FILE") begins every error.
/// InvalidArgument when the text is not JSON, not an object, or nested too deeply.
void parse_json(std::string_view text, const std::string& where, JsonEvents& events);

/// The object as a tree. InvalidArgument as above, and when a key appears twice or values are too many.
nlohmann::json parse_json_object(std::string_view text, const std::string& where);

/// The text of a JSON value; bytes that are not UTF-8 become U+FFFD. Never throws for what it is given.
std::string dump_json(const nlohmann::json& value, int indent = -1);
std::string dump_json(const nlohmann::ordered_json& value, int indent = -1);

/// At most some 80 characters of a value, for errors.
std::string show_json(const nlohmann::json& value);

/// One string value; when `nested`, it is in the object under the top-level key `parent`.
struct JsonString {
    bool nested = false;
    std::string parent;
    std::string key;
    std::string value;
};

/// All string values of the object `text` at depth one and two; other values are skipped. Control characters
/// inside strings are accepted. `where` ("[description] FILE") begins every error. InvalidArgument when the
/// text is not a JSON object, a key of these depths appears twice, or nesting exceeds 64 levels.
std::vector<JsonString> read_json_strings(std::string_view text, const std::string& where);

/// Whole numbers from low to high.
struct Bounds {
    std::int64_t low = std::numeric_limits<std::int64_t>::min();
    std::int64_t high = std::numeric_limits<std::int64_t>::max();
};

/// Copies share the file. All errors are InvalidArgument: "[op] FILE: PLACE must be WANTED, got VALUE".
class JsonNode {
  public:
    /// The object in a file. IoError when it cannot be read.
    static JsonNode read(const std::filesystem::path& path, std::string_view op);
    /// The same of a text, as the file `path`.
    static JsonNode parse(std::string_view text, const std::filesystem::path& path, std::string_view op);

    /// "register[2].strategy"
    const std::string& place() const { return place_; }
    /// "[op] FILE: PLACE", as its errors begin.
    std::string where() const;
    const nlohmann::json& json() const { return *value_; }
    /// The value under a key; nothing there reads as a null, which no getter below takes.
    JsonNode at(std::string_view key) const;
    /// True when the key is there, and not null.
    bool has(std::string_view key) const { return !at(key).is_null(); }
    bool contains(std::string_view key) const { return value_->contains(key); }
    bool is_null() const { return value_->is_null(); }
    bool is_list() const { return value_->is_array(); }
    bool is_object() const { return value_->is_object(); }
    bool is_number() const { return value_->is_number(); }

    /// Numbers with a fraction or an exponent are no whole numbers.
    std::int64_t whole(Bounds bounds) const;
    double number(double low, double high) const;
    bool flag() const;
    const std::string& text() const;
    /// One of these words.
    const std::string& word(std::span<const std::string_view> words) const;
    /// The items of a list.
    std::vector<JsonNode> items(std::string_view wanted = "a list") const;
    /// InvalidArgument when this object has another key, naming those known.
    void check_keys(std::span<const std::string_view> known) const;

    [[noreturn]] void fail(std::string_view wanted) const;

  private:
    struct Source {
        std::string where;  // "[op] FILE"
        nlohmann::json root;
    };
    JsonNode(std::shared_ptr<const Source> source, const nlohmann::json* value, std::string place)
        : source_(std::move(source)), value_(value), place_(std::move(place)) {}

    std::shared_ptr<const Source> source_;
    const nlohmann::json* value_;
    std::string place_;
};

}  // namespace aerogel
