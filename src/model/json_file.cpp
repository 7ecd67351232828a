// JSON files of a model folder: reading and complaints.
#include "model/json_file.h"

#include <fmt/format.h>

#include <fstream>
#include <iterator>

#include "aerogel/error.h"

namespace aerogel {

nlohmann::json read_json_object(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream.is_open() || stream.bad())
        throw IoError(fmt::format("[model] cannot read {}", path.string()));
    nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
        throw InvalidArgument(fmt::format("[model] {} must hold a JSON object, got {}", path.string(),
                                          json.is_discarded() ? "text that is not JSON" : json.type_name()));
    }
    return json;
}

void wrong_json_value(std::string_view op, const std::filesystem::path& path, std::string_view key,
                      std::string_view wanted, const nlohmann::json& value) {
    constexpr std::size_t kShown = 80;
    std::string shown = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (shown.size() > kShown) shown = shown.substr(0, kShown) + "...";
    throw InvalidArgument(
        fmt::format("[{}] {}: {} must be {}, got {}", op, path.string(), key, wanted, shown));
}

}  // namespace aerogel
