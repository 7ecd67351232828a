// A SAX walk that keeps the strings of the first two levels.
#include "core/json_strings.h"

#include <nlohmann/json.hpp>
#include <unordered_set>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::size_t kDepthLimit = 64;

// Raw control characters inside strings become \u00XX, which the parser accepts.
std::string escape_control_characters(std::string_view text) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string escaped;
    escaped.reserve(text.size());
    bool in_string = false;
    bool after_backslash = false;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (in_string && byte < 0x20 && !after_backslash) {
            escaped += "\\u00";
            escaped += kDigits[byte >> 4];
            escaped += kDigits[byte & 15];
            continue;
        }
        if (c == '"' && !after_backslash) in_string = !in_string;
        after_backslash = in_string && c == '\\' && !after_backslash;
        escaped += c;
    }
    return escaped;
}

class StringHandler {
  public:
    explicit StringHandler(const std::string& where) : where_(where) {}
    std::vector<JsonString> take() { return std::move(strings_); }

    bool null() { return value("null"); }
    bool boolean(bool) { return value("a boolean"); }
    bool number_integer(std::int64_t) { return value("a number"); }
    bool number_unsigned(std::uint64_t) { return value("a number"); }
    bool number_float(double, const std::string&) { return value("a number"); }
    bool binary(std::vector<std::uint8_t>&) { return value("bytes"); }

    bool string(std::string& text) {
        value("a string");
        if (arrays_ != 0) return true;
        if (depth_ == 1) {
            strings_.push_back({false, "", key_, std::move(text)});
        } else if (depth_ == 2) {
            strings_.push_back({true, parent_, key_, std::move(text)});
        }
        return true;
    }
    bool start_object(std::size_t) {
        if (depth_ == 1) {
            parent_ = key_;
            inner_keys_.clear();
        }
        return descend();
    }
    bool start_array(std::size_t) {
        value("an array");
        ++arrays_;
        return descend();
    }
    bool end_object() {
        --depth_;
        return true;
    }
    bool end_array() {
        --arrays_;
        return end_object();
    }
    bool key(std::string& text) {
        if (arrays_ != 0 || depth_ > 2) return true;
        if (!(depth_ == 1 ? outer_keys_ : inner_keys_).insert(text).second) {
            throw InvalidArgument(where_ + ": the key " + in_quotes(text) + " appears twice");
        }
        key_ = std::move(text);
        return true;
    }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
        throw InvalidArgument(where_ + ": not valid JSON at byte " + std::to_string(position) + ": " +
                              after_bracket(error.what()));
    }

  private:
    bool value(const char* kind) const {
        if (depth_ == 0) throw InvalidArgument(where_ + ": must be a JSON object, got " + kind);
        return true;
    }
    bool descend() {
        if (++depth_ > kDepthLimit) {
            throw InvalidArgument(where_ + ": nested deeper than " + std::to_string(kDepthLimit) + " levels");
        }
        return true;
    }
    // The parser's own message without its error number.
    static std::string after_bracket(std::string_view message) {
        const std::size_t end = message.find("] ");
        return printable(end == std::string_view::npos ? message : message.substr(end + 2));
    }

    const std::string& where_;
    std::size_t depth_ = 0;
    std::size_t arrays_ = 0;
    std::string parent_;
    std::string key_;
    std::unordered_set<std::string> outer_keys_;
    std::unordered_set<std::string> inner_keys_;
    std::vector<JsonString> strings_;
};

}  // namespace

std::vector<JsonString> read_json_strings(std::string_view text, const std::string& where) {
    StringHandler handler(where);
    const std::string escaped = escape_control_characters(text);
    nlohmann::json::sax_parse(escaped, &handler);
    return handler.take();
}

}  // namespace aerogel
