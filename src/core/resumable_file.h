// A large file that is written in pieces and survives being interrupted: the bytes are in "<path>.part", and
// "<path>.journal" notes which pieces are finished. A later run with the same key finds the notes again; with
// another key it begins anew. The final name appears only when the file is complete. The journal is locked,
// so that one process at a time writes the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/output_file.h"

namespace aerogel {

class ResumableFile {
  public:
    /// Locks the journal. IoError, also when another process is writing the file.
    explicit ResumableFile(std::filesystem::path path);
    ResumableFile(const ResumableFile&) = delete;
    ResumableFile& operator=(const ResumableFile&) = delete;

    /// Opens or begins a file of `size` bytes; first of all. `key` tells everything that the bytes depend on
    /// (one line), an empty one has no earlier runs. IoError; a file that has just begun leaves nothing then.
    void begin(const std::string& key, std::uint64_t size);

    /// What note() was given by the runs before this one. The bytes are to be verified: after a power cut
    /// the notes may be safer than what they tell of.
    const std::vector<std::string>& notes() const { return notes_; }
    /// Adds a line about bytes that are written.
    void note(std::string_view line);

    void write_at(std::uint64_t offset, const void* data, std::size_t size);
    void read_at(std::uint64_t offset, void* data, std::size_t size) const;
    void start_writing(std::uint64_t offset, std::uint64_t size);

    /// Syncs and renames to the final name. The notes stay until forget(), so that work after this one may
    /// be interrupted too. IoError.
    void commit();
    /// True once the file has its final name, also when an earlier run gave it.
    bool committed() const { return committed_; }
    /// Removes the notes, and the bytes when commit() was not reached.
    void forget();

  private:
    void lock_journal();
    void take_notes(const std::string& key);
    void begin_journal(const std::string& key);
    void open_bytes(const std::string& key, std::uint64_t size);

    std::filesystem::path path_;
    std::filesystem::path part_;
    std::filesystem::path journal_path_;
    std::unique_ptr<OutputFile> journal_;
    std::unique_ptr<OutputFile> file_;
    std::uint64_t journal_end_ = 0;
    bool begun_ = false;  // anew: nothing of an earlier run is kept
    bool committed_ = false;
    std::vector<std::string> notes_;
};

/// Where the notes and the bytes of an unfinished `path` are.
std::filesystem::path journal_path_of(const std::filesystem::path& path);
std::filesystem::path part_path_of(const std::filesystem::path& path);

}  // namespace aerogel
