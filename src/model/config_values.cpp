// Values of config.json, each with its bounds.
#include "model/config_values.h"

#include <array>
#include <string>

namespace aerogel {
namespace {

std::string list_of_sizes(std::size_t count) {
    static constexpr std::array kWords = {"no", "one", "two", "three", "four"};
    return "a list of " + (count < kWords.size() ? kWords[count] : std::to_string(count)) +
           (count == 1 ? " size" : " sizes");
}

}  // namespace

void read_size(const JsonNode& json, const char* key, std::int64_t& value) {
    if (json.has(key)) value = json.at(key).whole(kSizes);
}

void read_optional_size(const JsonNode& json, const char* key, std::optional<std::int64_t>& value) {
    if (!json.contains(key)) return;
    const JsonNode entry = json.at(key);
    value = entry.is_null() ? std::nullopt : std::optional(entry.whole(kSizes));
}

void read_flag(const JsonNode& json, const char* key, bool& value) {
    if (json.has(key)) value = json.at(key).flag();
}

void read_sizes(const JsonNode& json, const char* key, std::vector<std::int64_t>& value) {
    if (!json.has(key)) return;
    const std::string wanted = list_of_sizes(value.size());
    const JsonNode entry = json.at(key);
    const std::vector<JsonNode> items = entry.items(wanted);
    if (items.size() != value.size()) entry.fail(wanted);
    for (std::size_t i = 0; i < items.size(); ++i) value[i] = items[i].whole(kSizes);
}

void read_eps(const JsonNode& json, const char* key, float& value) {
    if (!json.has(key)) return;
    value = static_cast<float>(json.at(key).number(0.0, 1.0));
    if (!(value > 0.0F && value < 1.0F)) json.at(key).fail("a number between 0 and 1");
}

}  // namespace aerogel
