// Questions to the file system; the answers may change before the file is written, which then tells itself.
#include "cli/output_path.h"

#include <fmt/format.h>
#include <unistd.h>

#include "aerogel/error.h"
#include "core/paths.h"
#include "core/text.h"

namespace aerogel::cli {
namespace fs = std::filesystem;
namespace {

void check_writable(std::string_view op, const fs::path& path, const fs::path& folder) {
    if (::access(folder.c_str(), W_OK | X_OK) == 0) return;
    throw IoError(fmt::format("[{}] the output {} cannot be written: no permission in the folder {}", op,
                              in_quotes(path.string()), in_quotes(folder.string())));
}

}  // namespace

void check_output_file(std::string_view op, const fs::path& path, const std::vector<fs::path>& inputs) {
    const std::string name = in_quotes(path.string());
    if (!path.has_filename())
        throw InvalidArgument(fmt::format("[{}] the output must be a file name, got {}", op, name));
    if (is_folder(path))
        throw IoError(fmt::format("[{}] the output {} is a folder, expected a file name", op, name));
    for (const fs::path& input : inputs) {
        if (input.empty() || !is_same_file(path, input)) continue;
        throw InvalidArgument(fmt::format("[{}] the output {} is also an input", op, name));
    }
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    if (!is_folder(folder)) {
        throw IoError(fmt::format("[{}] the output {} cannot be written: the folder {} does not exist", op,
                                  name, in_quotes(folder.string())));
    }
    check_writable(op, path, folder);
}

void check_output_folder(std::string_view op, const fs::path& path) {
    if (path.empty()) throw InvalidArgument(fmt::format("[{}] the output must be a folder, got ''", op));
    fs::path there = path;
    while (!there.empty() && !path_exists(there)) there = there.parent_path();
    if (there.empty()) there = ".";
    if (!is_folder(there)) {
        throw IoError(fmt::format("[{}] the output {} cannot be a folder: {} is a file", op,
                                  in_quotes(path.string()), in_quotes(there.string())));
    }
    check_writable(op, path, there);
}

}  // namespace aerogel::cli
