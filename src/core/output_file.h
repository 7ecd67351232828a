// A file open for writing: POSIX calls whose every failure is an IoError that names the file and the reason.
#pragma once

#include <sys/types.h>
#include <cstddef>

#include <cstdint>
#include <filesystem>
#include <memory>

namespace aerogel {

class OutputFile {
  public:
    enum class Opening : std::uint8_t {
        made,      ///< as it is, or new
        new_only,  ///< an error when it is there
        old_only   ///< an error when it is not
    };
    enum class Lock : std::uint8_t { held, busy, unsupported };

    /// Opens `path` for reading and writing; `name` is what errors call it. IoError.
    OutputFile(std::filesystem::path path, std::filesystem::path name, Opening opening);
    /// The same; null, and the number of the error, instead of an IoError.
    static std::unique_ptr<OutputFile> try_open(const std::filesystem::path& path,
                                                const std::filesystem::path& name, Opening opening,
                                                int& error);
    ~OutputFile();
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;

    /// Reserves `size` bytes on the disk, so that a full disk is known before the work, and makes the file at
    /// least that long. IoError; the file is then as long as it was, and has given back what it took.
    void reserve(std::uint64_t size);
    /// Makes the file `size` bytes long. IoError.
    void resize(std::uint64_t size);
    /// Writes `size` bytes at `offset`. IoError.
    void write_at(std::uint64_t offset, const void* data, std::size_t size);
    /// Reads exactly `size` bytes at `offset`. IoError, also when the file ends before.
    void read_at(std::uint64_t offset, void* data, std::size_t size) const;
    /// Has the system begin writing that range to the disk, so that less is left for sync().
    void start_writing(std::uint64_t offset, std::uint64_t size);
    std::uint64_t size() const;
    /// Only one process has a file locked, until it closes the file or ends.
    Lock lock();
    /// True when the path still leads to this file: another process may have renamed or removed it between
    /// our opening and our locking it.
    bool is_in_place() const;
    /// True for a regular file of this user that has no other name.
    bool is_own() const;
    /// Waits until all of it is on the disk. IoError.
    void sync();
    /// IoError.
    void close();

    const std::filesystem::path& path() const { return path_; }

  private:
    OutputFile(std::filesystem::path path, std::filesystem::path name, int descriptor);
    void unlock();

    std::filesystem::path path_;
    std::filesystem::path name_;
    int descriptor_ = -1;
    pid_t locker_ = 0;  ///< the process that locked it
};

/// Gives a complete file its final name. IoError.
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);
/// Syncs the folder of `path`: without this a power cut may forget the name though the file itself is safe.
/// IoError.
void sync_folder_of(const std::filesystem::path& path);

}  // namespace aerogel
