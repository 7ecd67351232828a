// std::filesystem with error codes, and unlink().
#include "core/paths.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <system_error>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const char* op, const fs::path& path, const char* what, const std::error_code& error) {
    throw IoError("[" + std::string(op) + "] " + path.string() + ": cannot " + what + ": " + error.message());
}

fs::file_type type_of(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::none) fail("read", path, "look at it", error);
    return status.type();
}

}  // namespace

std::string extension_of(const fs::path& path) {
    return lower_case(path.extension().string());
}

bool has_extension(const fs::path& path, std::string_view extension) {
    return extension_of(path) == extension;
}

bool path_exists(const fs::path& path) {
    return type_of(path) != fs::file_type::not_found;
}

bool is_folder(const fs::path& path) {
    return type_of(path) == fs::file_type::directory;
}

bool is_file(const fs::path& path) {
    return type_of(path) == fs::file_type::regular;
}

bool is_same_file(const fs::path& a, const fs::path& b) {
    std::error_code ignored;
    return fs::equivalent(a, b, ignored);
}

fs::path full_path(const fs::path& path) {
    std::error_code error;
    fs::path full = fs::absolute(path, error);
    if (!error) full = fs::weakly_canonical(full, error);
    if (error) fail("read", path, "look at it", error);
    return full;
}

std::vector<fs::path> folder_entries(const fs::path& folder) {
    std::error_code error;
    std::vector<fs::path> paths;
    fs::directory_iterator entry(folder, error);
    while (!error && entry != fs::directory_iterator()) {
        paths.push_back(entry->path());
        entry.increment(error);
    }
    if (error) fail("read", folder, "list the folder", error);
    std::sort(paths.begin(), paths.end());
    return paths;
}

void make_folders(const fs::path& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (!error && !fs::is_directory(folder, error) && !error) {
        error = std::make_error_code(std::errc::not_a_directory);
    }
    if (error) fail("write", folder, "make the folder", error);
}

NewFolders::NewFolders(const fs::path& folder) {
    for (fs::path missing = folder; !missing.empty() && !path_exists(missing);
         missing = missing.parent_path())
        made_.push_back(missing);
    if (folder.empty()) return;
    try {
        make_folders(folder);
    } catch (...) {
        remove();
        throw;
    }
}

NewFolders::~NewFolders() {
    remove();
}

void NewFolders::remove() {
    for (const fs::path& folder : made_) ::rmdir(folder.c_str());
}

void remove_file(const fs::path& path) {
    ::unlink(path.c_str());
}

}  // namespace aerogel
