// POSIX calls behind OutputFile.
#include "core/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
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

constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux moves at most 2 GiB per call

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

OutputFile::OutputFile(std::filesystem::path path, std::filesystem::path name, Content content)
    : path_(std::move(path)), name_(std::move(name)) {
    constexpr mode_t kMode = 0666;  // the umask takes its part
    const int truncate = content == Content::none ? O_TRUNC : 0;
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | truncate | O_NOFOLLOW | O_CLOEXEC, kMode);
    if (descriptor_ < 0) fail(name_, "create", errno);
}

OutputFile::~OutputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::reserve(std::uint64_t size) {
    if (size == 0) return;
    const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(size));
    if (error == EOPNOTSUPP || error == EINVAL) return;  // a file system that cannot: write_at() will tell
    if (error != 0) fail(name_, "reserve the space", error);
}

void OutputFile::resize(std::uint64_t size) {
    if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) fail(name_, "resize", errno);
}

void OutputFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    const char* bytes = static_cast<const char*>(data);
    while (size != 0) {
        const ssize_t written =
            ::pwrite(descriptor_, bytes, std::min(size, kMost), static_cast<off_t>(offset));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail(name_, "write", written == 0 ? ENOSPC : errno);
        bytes += written;
        offset += static_cast<std::uint64_t>(written);
        size -= static_cast<std::size_t>(written);
    }
}

void OutputFile::read_at(std::uint64_t offset, void* data, std::size_t size) const {
    char* bytes = static_cast<char*>(data);
    while (size != 0) {
        const ssize_t got = ::pread(descriptor_, bytes, std::min(size, kMost), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(name_, "read back", errno);
        if (got == 0) throw IoError("[write] " + name_.string() + ": cannot read back: it ends too early");
        bytes += got;
        offset += static_cast<std::uint64_t>(got);
        size -= static_cast<std::size_t>(got);
    }
}

// A hint: failure changes nothing.
void OutputFile::start_writing(std::uint64_t offset, std::uint64_t size) {
    ::sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                      SYNC_FILE_RANGE_WRITE);
}

std::uint64_t OutputFile::size() const {
    struct stat status = {};
    if (::fstat(descriptor_, &status) != 0) fail(name_, "read its size", errno);
    return static_cast<std::uint64_t>(status.st_size);
}

bool OutputFile::lock() {
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return true;
    // Some network file systems have no locks; one process at a time is then up to the user.
    return errno != EWOULDBLOCK;
}

void OutputFile::close_synced() {
    if (::fsync(descriptor_) != 0 && errno != EINVAL) fail(name_, "sync", errno);
    const int closed = ::close(std::exchange(descriptor_, -1));
    if (closed != 0 && errno != EINTR) fail(name_, "close", errno);
}

void rename_synced(const std::filesystem::path& from, const std::filesystem::path& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) fail(to, "rename the temporary file", errno);
    sync_folder(to);
}

}  // namespace aerogel
