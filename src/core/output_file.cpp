// POSIX calls behind OutputFile.
#include "core/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr std::size_t kMost = std::size_t{1} << 30;  // Linux moves at most 2 GiB per call

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
    throw IoError("[write] " + path.string() + ": cannot " + what + ": " +
                  std::generic_category().message(error));
}

// Calls again what a signal interrupted.
template <typename Call>
auto uninterrupted(const Call& call) {
    auto result = call();
    while (result < 0 && errno == EINTR) result = call();
    return result;
}

int open_file(const std::filesystem::path& path, OutputFile::Opening opening) {
    constexpr mode_t kMode = 0666;  // the umask takes its part
    int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    if (opening != OutputFile::Opening::old_only) flags |= O_CREAT;
    if (opening == OutputFile::Opening::new_only) flags |= O_EXCL;
    return uninterrupted([&] { return ::open(path.c_str(), flags, kMode); });
}

off_t to_offset(const std::filesystem::path& path, std::uint64_t size) {
    if (size > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) {
        fail(path, "make it so large", EFBIG);
    }
    return static_cast<off_t>(size);
}

// A disk that is too small is known without filling it first.
void check_room(int descriptor, const std::filesystem::path& name, std::uint64_t size) {
    struct statvfs disk = {};
    struct stat status = {};
    if (::fstatvfs(descriptor, &disk) != 0 || ::fstat(descriptor, &status) != 0) return;
    if (disk.f_blocks == 0) return;  // a file system that does not tell
    constexpr std::uint64_t kBlock = 512;
    const std::uint64_t taken = static_cast<std::uint64_t>(status.st_blocks) * kBlock;
    const std::uint64_t blocks = ::geteuid() == 0 ? disk.f_bfree : disk.f_bavail;
    const std::uint64_t free = blocks * disk.f_frsize;
    if (size <= taken || size - taken <= free) return;
    throw IoError("[write] " + name.string() + ": needs " + std::to_string(size - taken) + " bytes (" +
                  show_bytes(static_cast<double>(size - taken)) + ") of the disk, " + std::to_string(free) +
                  " (" + show_bytes(static_cast<double>(free)) + ") are free");
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, std::filesystem::path name, int descriptor)
    : path_(std::move(path)), name_(std::move(name)), descriptor_(descriptor) {}

OutputFile::OutputFile(std::filesystem::path path, std::filesystem::path name, Opening opening)
    : OutputFile(std::move(path), std::move(name), -1) {
    descriptor_ = open_file(path_, opening);
    if (descriptor_ < 0) fail(name_, "create", errno);
}

std::unique_ptr<OutputFile> OutputFile::try_open(const std::filesystem::path& path,
                                                 const std::filesystem::path& name, Opening opening,
                                                 int& error) {
    const int descriptor = open_file(path, opening);
    error = descriptor < 0 ? errno : 0;
    return std::unique_ptr<OutputFile>(descriptor < 0 ? nullptr : new OutputFile(path, name, descriptor));
}

OutputFile::~OutputFile() {
    if (descriptor_ < 0) return;
    unlock();
    ::close(descriptor_);
}

// Not posix_fallocate(), which fills the file with zeros where the file system cannot reserve.
void OutputFile::reserve(std::uint64_t size) {
    if (size == 0) return;
    const off_t end = to_offset(name_, size);
    const std::uint64_t before = this->size();
    check_room(descriptor_, name_, size);
    if (uninterrupted([&] { return ::fallocate(descriptor_, 0, 0, end); }) == 0) return;
    const int error = errno;
    if (error == EOPNOTSUPP || error == ENOSYS || error == EINVAL) return;  // write_at() will tell
    // A part of it may be reserved all the same.
    [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, static_cast<off_t>(before));
    fail(name_, ("reserve " + show_bytes(static_cast<double>(size))).c_str(), error);
}

void OutputFile::resize(std::uint64_t size) {
    const off_t end = to_offset(name_, size);
    if (uninterrupted([&] { return ::ftruncate(descriptor_, end); }) != 0) fail(name_, "resize", errno);
}

void OutputFile::write_at(std::uint64_t offset, const void* data, std::size_t size) {
    const char* bytes = static_cast<const char*>(data);
    while (size != 0) {
        const ssize_t written = uninterrupted(
            [&] { return ::pwrite(descriptor_, bytes, std::min(size, kMost), static_cast<off_t>(offset)); });
        if (written <= 0) fail(name_, "write", written == 0 ? ENOSPC : errno);
        bytes += written;
        offset += static_cast<std::uint64_t>(written);
        size -= static_cast<std::size_t>(written);
    }
}

void OutputFile::read_at(std::uint64_t offset, void* data, std::size_t size) const {
    char* bytes = static_cast<char*>(data);
    while (size != 0) {
        const ssize_t got = uninterrupted(
            [&] { return ::pread(descriptor_, bytes, std::min(size, kMost), static_cast<off_t>(offset)); });
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

// Some network file systems have no locks; one process at a time is then up to the user.
OutputFile::Lock OutputFile::lock() {
    if (uninterrupted([&] { return ::flock(descriptor_, LOCK_EX | LOCK_NB); }) == 0) {
        locker_ = ::getpid();
        return Lock::held;
    }
    return errno == EWOULDBLOCK ? Lock::busy : Lock::unsupported;
}

bool OutputFile::is_in_place() const {
    struct stat own = {}, there = {};
    if (::fstat(descriptor_, &own) != 0) fail(name_, "look at it", errno);
    return ::lstat(path_.c_str(), &there) == 0 && own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

bool OutputFile::is_own() const {
    struct stat own = {};
    if (::fstat(descriptor_, &own) != 0) fail(name_, "look at it", errno);
    return S_ISREG(own.st_mode) && own.st_uid == ::geteuid() && own.st_nlink == 1;
}

void OutputFile::sync() {
    const int result = uninterrupted([&] { return ::fsync(descriptor_); });
    if (result != 0 && errno != EINVAL) fail(name_, "sync", errno);  // EINVAL: not offered there
}

// A forked child has the descriptor too: without this its parent's lock would last as long as the child.
void OutputFile::unlock() {
    if (locker_ == ::getpid()) ::flock(descriptor_, LOCK_UN);
    locker_ = 0;
}

void OutputFile::close() {
    unlock();
    const int closed = ::close(std::exchange(descriptor_, -1));
    if (closed != 0 && errno != EINTR) fail(name_, "close", errno);
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) fail(to, "rename the temporary file", errno);
}

void sync_folder_of(const std::filesystem::path& path) {
    const auto parent = path.parent_path();
    const std::filesystem::path folder = parent.empty() ? std::filesystem::path(".") : parent;
    const int descriptor =
        uninterrupted([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    // A folder that may be written but not read cannot be synced; the file is there all the same.
    if (descriptor < 0 && errno == EACCES) return;
    if (descriptor < 0) fail(path, "open the folder to sync it", errno);
    const int result = uninterrupted([&] { return ::fsync(descriptor); });
    const int error = errno;
    ::close(descriptor);
    if (result != 0 && error != EINVAL) fail(path, "sync the folder", error);
}

}  // namespace aerogel
