// A file mapped read-only into memory, unmapped with its last user.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace aerogel {

class MappedFile {
  public:
    /// Maps the whole file. IoError when it is missing, unreadable or not a regular file. The file must not
    /// be shortened while it is mapped; replacing it by rename is fine.
    static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }
    /// Asks the system to begin reading that range now, without waiting for it.
    void read_ahead(std::size_t begin, std::size_t size) const;
    /// Takes that range out of this process's memory until it is touched again.
    void release(std::size_t begin, std::size_t size) const;

  private:
    MappedFile() = default;
    void advise(std::size_t begin, std::size_t size, int advice) const;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace aerogel
