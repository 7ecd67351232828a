// The one JSON reader. Files come from anywhere, so there are limits on size, depth and the number of values,
// and what does not keep to them is an InvalidArgument that names the file and the place. Writing JSON for
// people and programs never fails.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

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

}  // namespace aerogel
