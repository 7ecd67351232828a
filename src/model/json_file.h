// Reading the small JSON files of a model folder with errors that name the file and the key.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace aerogel {

/// The object in a JSON file. IoError when it cannot be read, InvalidArgument when it is not a JSON object.
nlohmann::json read_json_object(const std::filesystem::path& path);

/// Throws InvalidArgument "[op] FILE: KEY must be WANTED, got VALUE".
[[noreturn]] void wrong_json_value(std::string_view op, const std::filesystem::path& path,
                                   std::string_view key, std::string_view wanted,
                                   const nlohmann::json& value);

}  // namespace aerogel
