// A file that appears under its name only when it is complete: written as "<path>.tmp" in the same folder,
// synced, renamed over the target, and the folder synced. A crash or an error leaves the old file as it was.
// The temporary file is locked by its writer, so a leftover of a killed one is known as such: the next writer
// of the same path takes it over. Several living writers have "<path>.tmp.1" and so on beside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "core/output_file.h"

namespace aerogel {

/// A name on the list of remove_temporary_files(); the few that find no place there are not on it.
class TemporaryName {
  public:
    TemporaryName() = default;
    ~TemporaryName() { clear(); }
    TemporaryName(const TemporaryName&) = delete;
    TemporaryName& operator=(const TemporaryName&) = delete;

    void set(const std::filesystem::path& path);
    void clear();

  private:
    int place_ = -1;
};

class AtomicFile {
  public:
    /// Creates the temporary file. IoError when the folder is missing or not writable.
    explicit AtomicFile(std::filesystem::path path);
    /// Removes the temporary file unless commit() was reached.
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;

    /// Reserves `size` bytes on the disk, so that a full disk is known before the work. IoError.
    void reserve(std::uint64_t size);
    /// Writes `size` bytes at `offset`, or at the end of what write() has written so far. IoError.
    void write_at(std::uint64_t offset, const void* data, std::size_t size);
    void write(std::string_view text);
    /// Syncs, renames to the final name and closes. IoError.
    void commit();

    const std::filesystem::path& path() const { return path_; }
    /// Where the bytes are until commit(), for other programs that write the file.
    const std::filesystem::path& temporary_path() const { return file_->path(); }

  private:
    std::filesystem::path path_;
    std::unique_ptr<OutputFile> file_;
    TemporaryName name_;  // of what exists
    bool committed_ = false;
    std::uint64_t end_ = 0;
};

/// Removes the temporary files of all that are not committed yet: the last deed of a process that a signal
/// ends. Safe in a signal handler.
void remove_temporary_files() noexcept;

/// Throws IoError when `path` cannot be the name of a file: it is a folder, a device or a pipe, or ends in a
/// slash.
void check_file_name(const std::filesystem::path& path);

/// Writes `text` as the whole content of `path`. IoError.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace aerogel
