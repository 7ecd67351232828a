// POSIX calls behind MappedFile.
#include "core/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
    std::shared_ptr<MappedFile> mapped(new MappedFile(InputFile(path, "read")));
    mapped->size_ = static_cast<std::size_t>(mapped->file_.size());
    if (mapped->size_ == 0) return mapped;  // nothing to map; the parser says what is wrong
    // Writable, so that whoever edits an array of a layer gets a copy of the page instead of a signal.
    void* data = ::mmap(nullptr, mapped->size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                        mapped->file_.descriptor(), 0);
    if (data == MAP_FAILED) {
        throw IoError("[read] " + path.string() + ": cannot map: " + std::generic_category().message(errno));
    }
    mapped->data_ = static_cast<std::byte*>(data);
    mapped->guard_.emplace(mapped->data_, mapped->size_);
    return mapped;
}

void MappedFile::check_intact() const {
    const std::uint64_t now = file_.size();
    if (now >= size_ && !(guard_ && guard_->damaged())) return;
    const std::string path = "[read] " + file_.path().string();
    if (now >= size_) throw IoError(path + ": a part of it could not be read from the disk");
    throw IoError(path + ": was shortened while it was read: it had " + std::to_string(size_) +
                  " bytes, now " + std::to_string(now));
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
    ::madvise(data_ + first, begin + size - first, advice);
}

MappedFile::~MappedFile() {
    guard_.reset();  // before another mapping may take the addresses
    if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace aerogel
