// A file open for writing: POSIX calls whose every failure is an IoError that names the file and the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace aerogel {

class OutputFile {
  public:
    enum class Content : std::uint8_t { none, kept };

    /// Opens `path` for reading and writing, made when missing; `name` is what errors call it. IoError.
    OutputFile(std::filesystem::path path, std::filesystem::path name, Content content);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    /// Reserves `size` bytes on the disk, so that a full disk is known before the work. IoError.
    void reserve(std::uint64_t size);
    /// Makes the file `size` bytes long. IoError.
    void resize(std::uint64_t size);
    /// Writes `size` bytes at `offset`. IoError.
    void write_at(std::uint64_t offset, const void* data, std::size_t size);
    /// Reads exactly `size` bytes at `offset`. IoError, also when the file ends before.
    void read_at(std::uint64_t offset, void* data, std::size_t size) const;
    /// Has the system begin writing that range to the disk, so that less is left for close_synced().
    void start_writing(std::uint64_t offset, std::uint64_t size);
    std::uint64_t size() const;
    /// Only one process has a file locked; false when another one has. Ends with the process at the latest.
    bool lock();
    /// Syncs and closes. IoError.
    void close_synced();

    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
    std::filesystem::path name_;
    int descriptor_ = -1;
};

/// Gives a complete file its final name and syncs the folder, so that a power cut does not forget it.
/// IoError.
void rename_synced(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace aerogel
