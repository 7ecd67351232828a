// A file mapped read-only into memory, unmapped with its last user. It may be shortened while it is read.
#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "core/input_file.h"

namespace aerogel {

/// One mapped range, guarded as long as this lives.
///
/// Reading a mapped file behind its end raises SIGBUS, and a file may be shortened by anybody at any time.
/// While files are mapped, this guard turns such a read into zeros and remembers that the file is damaged;
/// whoever has read says so afterwards (MappedFile::check_intact).
///
/// The process's own handler is kept: it is put aside when the first file is mapped, gets every SIGBUS that
/// is not about a guarded range, and is put back when the last file is unmapped, unless somebody has set
/// another one since. A program that sets its own afterwards and does not call ours ends at such a read, as
/// without a guard.
class MappingGuard {
  public:
    /// More ranges than there is room for are left unguarded.
    MappingGuard(const std::byte* data, std::size_t size);
    ~MappingGuard();
    MappingGuard(const MappingGuard&) = delete;
    MappingGuard& operator=(const MappingGuard&) = delete;

    /// True once bytes were read that the file no longer has.
    bool damaged() const;

    struct Slot;

  private:
    Slot* slot_ = nullptr;
};

class MappedFile {
  public:
    /// Maps the whole file. IoError when it is missing, unreadable or not a regular file. Replacing it by
    /// rename is fine; when it is shortened meanwhile, the bytes it lost read as zeros and check_intact()
    /// tells.
    static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }
    /// To be called after reading: IoError when the file has been shortened since it was mapped.
    void check_intact() const;
    /// Asks the system to begin reading that range now, without waiting for it.
    void read_ahead(std::size_t begin, std::size_t size) const;
    /// Takes that range out of this process's memory until it is touched again.
    void release(std::size_t begin, std::size_t size) const;

  private:
    explicit MappedFile(InputFile file) : file_(std::move(file)) {}
    void advise(std::size_t begin, std::size_t size, int advice) const;

    InputFile file_;
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    std::optional<MappingGuard> guard_;
};

}  // namespace aerogel
