// A SAX walk that keeps the strings of the first two levels.
#include "core/json_strings.h"

#include <unordered_set>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

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

class StringHandler final : public JsonEvents {
  public:
    explicit StringHandler(const std::string& where) : where_(where) {}
    std::vector<JsonString> take() { return std::move(strings_); }

    bool string(std::string& text) override {
        if (arrays_ != 0) return true;
        if (depth_ == 1) {
            strings_.push_back({false, "", key_, std::move(text)});
        } else if (depth_ == 2) {
            strings_.push_back({true, parent_, key_, std::move(text)});
        }
        return true;
    }
    bool start_object(std::size_t) override {
        if (depth_ == 1) {
            parent_ = key_;
            inner_keys_.clear();
        }
        ++depth_;
        return true;
    }
    bool start_array(std::size_t) override {
        ++arrays_;
        ++depth_;
        return true;
    }
    bool end_object() override {
        --depth_;
        return true;
    }
    bool end_array() override {
        --arrays_;
        return end_object();
    }
    bool key(std::string& text) override {
        if (arrays_ != 0 || depth_ > 2) return true;
        if (!(depth_ == 1 ? outer_keys_ : inner_keys_).insert(text).second) {
            throw InvalidArgument(where_ + ": the key " + in_quotes(text) + " appears twice");
        }
        key_ = std::move(text);
        return true;
    }

  private:
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
    parse_json(escape_control_characters(text), where, handler);
    return handler.take();
}

}  // namespace aerogel
