// A file mapped read-only into memory, unmapped with its last user.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "core/input_file.h"
#include "core/mapping_guard.h"

namespace aerogel {

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
