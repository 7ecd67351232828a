// POSIX calls behind MappedFile.
#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "aerogel/error.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& why) {
    throw IoError("[read] " + path.string() + ": " + why);
}
std::string reason(const char* what) {
    return "cannot " + std::string(what) + ": " + std::generic_category().message(errno);
}

// Closes the descriptor on every way out; a mapping does not need it.
struct Descriptor {
    int number;
    explicit Descriptor(int n) : number(n) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (number >= 0) ::close(number);
    }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
    // Non-blocking, so that a named pipe is refused instead of waited for.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.number < 0) fail(path, reason("open"));
    struct stat status = {};
    if (::fstat(file.number, &status) != 0) fail(path, reason("read its size"));
    if (S_ISDIR(status.st_mode)) fail(path, "is a folder, not a file");
    if (!S_ISREG(status.st_mode)) fail(path, "is not a regular file");
    std::shared_ptr<MappedFile> mapped(new MappedFile);
    mapped->size_ = static_cast<std::size_t>(status.st_size);
    if (mapped->size_ == 0) return mapped;  // nothing to map; the parser says what is wrong
    // Writable, so that whoever edits an array of a layer gets a copy of the page instead of a signal.
    void* data =
        ::mmap(nullptr, mapped->size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number, 0);
    if (data == MAP_FAILED) fail(path, reason("map"));
    mapped->data_ = static_cast<const std::byte*>(data);
    return mapped;
}

void MappedFile::read_ahead(std::size_t begin, std::size_t size) const {
    constexpr std::size_t kSmall = std::size_t{1} << 16;
    if (size >= kSmall) advise(begin, size, MADV_WILLNEED);
}

// The pages at both ends may belong to neighbours too; those are read again when touched.
void MappedFile::release(std::size_t begin, std::size_t size) const {
    if (size != 0) advise(begin, size, MADV_DONTNEED);
}

// Only hints: failure changes nothing.
void MappedFile::advise(std::size_t begin, std::size_t size, int advice) const {
    const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t first = begin / page * page;
    ::madvise(const_cast<std::byte*>(data_) + first, begin + size - first, advice);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace aerogel
