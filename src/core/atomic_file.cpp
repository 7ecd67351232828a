// POSIX calls behind AtomicFile. Every failure is an IoError that names the file and the reason.
#include "core/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
    throw IoError("[write] " + path.string() + ": cannot " + what + ": " +
                  std::generic_category().message(error));
}

// Without this a power cut may forget the rename though the file itself is safe.
void sync_folder(const std::filesystem::path& path) {
    const auto parent = path.parent_path();
    const std::filesystem::path folder = parent.empty() ? std::filesystem::path(".") : parent;
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) fail(path, "open the folder to sync it", errno);
    const int result = ::fsync(descriptor);
    const int error = errno;
    ::close(descriptor);
    if (result != 0 && error != EINVAL) fail(path, "sync the folder", error);  // EINVAL: not offered there
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
    if (!path_.has_filename()) throw IoError("[write] '" + path_.string() + "' is not a file name");
    if (std::error_code ignored; std::filesystem::is_directory(path_, ignored)) fail(path_, "create", EISDIR);
    temporary_ = path_;
    temporary_ += ".tmp." + std::to_string(::getpid());
    constexpr mode_t kMode = 0666;  // the umask takes its part
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kMode);
    if (descriptor_ < 0) fail(path_, "create", errno);
}

AtomicFile::~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::reserve(std::uint64_t size) {
    if (size == 0) return;
    const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(size));
    if (error == EOPNOTSUPP || error == EINVAL) return;  // a file system that cannot: write() will tell
    if (error != 0) fail(path_, "reserve the space", error);
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    const char* bytes = static_cast<const char*>(data);
    constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux writes at most 2 GiB per call
    while (size != 0) {
        const ssize_t written =
            ::pwrite(descriptor_, bytes, std::min(size, kMost), static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail(path_, "write", written == 0 ? ENOSPC : errno);
        bytes += written;
        offset += static_cast<std::uint64_t>(written);
        size -= static_cast<std::size_t>(written);
    }
    end_ = std::max(end_, offset);
}

void AtomicFile::write(std::string_view text) {
    write_at(end_, text.data(), text.size());
}

void AtomicFile::commit() {
    if (::fsync(descriptor_) != 0 && errno != EINVAL) fail(path_, "sync", errno);
    const int closed = ::close(std::exchange(descriptor_, -1));
    if (closed != 0 && errno != EINTR) fail(path_, "close", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "rename the temporary file", errno);
    temporary_.clear();
    sync_folder(path_);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
    AtomicFile file(path);
    file.write(text);
    file.commit();
}

}  // namespace aerogel
