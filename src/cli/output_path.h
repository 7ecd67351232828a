// Outputs that cannot work are refused before the work, not after it.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace aerogel::cli {

/// Throws unless `path` can become a file: it has a name, is no folder, is none of `inputs` (empty ones are
/// left out), and its folder is there and may be written. InvalidArgument, IoError.
void check_output_file(std::string_view op, const std::filesystem::path& path,
                       const std::vector<std::filesystem::path>& inputs = {});
/// Throws unless `path` is a folder that may be written, or can be made.
void check_output_folder(std::string_view op, const std::filesystem::path& path);

}  // namespace aerogel::cli
