// A value of a JSON file with its place in it: the one set of checked getters, so that every error names the
// file, the place, what is expected and what is there.
#pragma once

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
