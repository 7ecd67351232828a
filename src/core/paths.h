// Questions to the file system, and the few changes to it that are no files. std::filesystem throws errors of
// its own, for a link that leads to itself or a folder that may not be read; these give an IoError that names
// the path.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// False when nothing is there; IoError when that cannot be found out (a link loop, no permission).
bool path_exists(const std::filesystem::path& path);
/// The same for a folder, and for a regular file.
bool is_folder(const std::filesystem::path& path);
bool is_file(const std::filesystem::path& path);
/// True when both are there and are one file.
bool is_same_file(const std::filesystem::path& a, const std::filesystem::path& b);
/// ".gguf", in small letters whatever those of the name are; empty where there is none.
std::string extension_of(const std::filesystem::path& path);
/// True when that is `extension`.
bool has_extension(const std::filesystem::path& path, std::string_view extension);
/// Absolute, without links and dots as far as it is there: paths of one file are equal. IoError.
std::filesystem::path full_path(const std::filesystem::path& path);
/// Everything in a folder, sorted. IoError.
std::vector<std::filesystem::path> folder_entries(const std::filesystem::path& folder);
/// Makes the folder and those around it that are missing. IoError.
void make_folders(const std::filesystem::path& folder);

/// A folder that is made for a file, with those around it that are missing. Unless keep() is called, those
/// that were made go again where nothing lies in them.
class NewFolders {
  public:
    /// An empty path needs none. IoError.
    explicit NewFolders(const std::filesystem::path& folder);
    ~NewFolders();
    NewFolders(const NewFolders&) = delete;
    NewFolders& operator=(const NewFolders&) = delete;

    void keep() { made_.clear(); }

  private:
    void remove();

    std::vector<std::filesystem::path> made_;  ///< the innermost first
};

/// Removes a file; that there is none, or that it cannot be removed, changes nothing.
void remove_file(const std::filesystem::path& path);

}  // namespace aerogel
