// Reading a mapped file behind its end raises SIGBUS, and a file may be shortened by anybody at any time.
// While files are mapped, this guard turns such a read into zeros and remembers that the file is damaged;
// whoever has read says so afterwards (MappedFile::check_intact).
//
// The process's own handler is kept: it is put aside when the first file is mapped, gets every SIGBUS that is
// not about a guarded range, and is put back when the last file is unmapped, unless somebody has set another
// one since. A program that sets its own afterwards and does not call ours ends at such a read, as without a
// guard.
#pragma once

#include <atomic>
#include <cstddef>

namespace aerogel {

/// One mapped range, guarded as long as this lives.
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

}  // namespace aerogel
