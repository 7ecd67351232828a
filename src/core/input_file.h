// Files from elsewhere: the one place that opens them. Only regular files are taken, so that a named pipe, a
// device, a socket or a folder is one clear error instead of a wait, endless bytes or a message of the
// library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace aerogel {

/// A regular file open for reading; its descriptor is closed with it.
class InputFile {
  public:
    /// "[op] PATH: what" as IoError when it cannot be opened or is no regular file.
    InputFile(std::filesystem::path path, std::string_view op);
    ~InputFile();
    InputFile(InputFile&& other) noexcept;
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    int descriptor() const { return descriptor_; }
    const std::filesystem::path& path() const { return path_; }
    /// Bytes it has now. IoError.
    std::uint64_t size() const;
    /// All of it from the beginning. InvalidArgument when there are more than `limit` bytes, however many the
    /// file says it has (it may grow, and files of /proc say 0). IoError.
    std::string read_all(std::size_t limit) const;

  private:
    [[noreturn]] void fail(const std::string& what) const;

    std::filesystem::path path_;
    std::string op_;
    int descriptor_ = -1;
};

/// InputFile::read_all of a file.
std::string read_text_file(const std::filesystem::path& path, std::string_view op, std::size_t limit);

}  // namespace aerogel
